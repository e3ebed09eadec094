//! Several rows at once: which are selected, what will happen to them, and what became of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leptos::{prelude::*, reactive::graph::untrack};
use rollcall_shared::Record;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Element, Event, MouseEvent};

use super::{
    dialog::{Ask, close, frame, guard, guarded, title},
    element::{El, button, el, follow, said},
    later,
    row::short_id,
};
use crate::{
    acts::{self, CHUNK_ACTS, Refused, request, send, token},
    aftermath::{self, Act},
    app::{Ui, Undo},
    select, words,
};

/// How many rows the list of what will happen draws; what failed comes first.
const ROWS_MAX: usize = 200;

impl Ui {
    /// Selects a row or lets go of it; with `range`, selects all from the row that was turned last.
    pub fn toggle(self, key: &str, range: bool) {
        let last = self.at.get_untracked();
        let mut selected = self.selected.get_untracked();
        self.store.with_rows(|rows| {
            let keys = rows.iter().map(|row| &*row.key);
            select::toggle(&mut selected, keys, last.as_deref(), key, range);
        });
        self.selected.set(selected);
        // A click with shift marks text, too.
        if let Ok(Some(marked)) = window().get_selection() {
            let _ = marked.remove_all_ranges();
        }
        self.at.set(Some(key.to_owned()));
    }

    /// Whether a click on a row selects it: one with a key held down, or one on its box.
    pub fn selects(self, event: &Event, key: &str) -> bool {
        let Some(click) = event.dyn_ref::<MouseEvent>() else { return false };
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        let on_box = target.is_some_and(|target| target.closest("[data-pick]").ok().flatten().is_some());
        if !on_box && !click.shift_key() && !click.ctrl_key() && !click.meta_key() {
            return false;
        }
        event.prevent_default();
        later::pick(self, key, click.shift_key());
        true
    }

    /// Selects all that the table shows and that is still there.
    pub fn select_all(self) {
        let all: Vec<String> = self.store.with_rows(|rows| rows.iter().map(|row| row.key.clone()).collect());
        let there = |key: &String| self.store.read(|live| live.catalog().get(key).is_some());
        self.selected.set(all.into_iter().filter(there).collect());
    }

    /// What is selected, as it stands now.
    pub fn selected_records(self) -> Vec<Arc<Record>> {
        self.store.read(|live| {
            let live = |key: &String| live.catalog().get(key).cloned();
            self.selected.with_untracked(|selected| selected.iter().filter_map(live).collect())
        })
    }

    /// Asks whether this is to be done to all that is selected.
    pub fn act_on_selected(self, act: Act) {
        let records = self.selected_records();
        match &*records {
            [] => {}
            [record] if act == Act::Delete => self.deregister(Arc::clone(record)),
            _ => self.dialog.set(Some(Ask::Batch(act, records))),
        }
    }
}

/// The box of a row that shows whether it is selected.
pub fn pick_box(ui: Ui, key: &Arc<str>, name: &str) -> El {
    let key = Arc::clone(key);
    let is_selected = move || Some(ui.selected.with(|selected| selected.contains(&*key)).to_string());
    el("button")
        .class("pick")
        .attr("type", "button")
        .attr("role", "checkbox")
        .attr("data-pick", "")
        .attr("aria-label", &words::SELECT.with(&[name]))
        .attr_of("aria-checked", is_selected)
}

/// The bar at the foot of the page, while something is selected.
pub fn selection_bar(ui: Ui) -> El {
    let is_open = Memo::new(move |_| ui.selected.with(|selected| !selected.is_empty()));
    el("div").part(move || if is_open.get() { vec![bar(ui)] } else { Vec::new() })
}

fn bar(ui: Ui) -> El {
    let count = move || words::SELECTED.with(&[&words::number(ui.selected.with(BTreeSet::len))]);
    // What has gone is selected no more.
    follow(move || {
        ui.store.follow_anything();
        let there = ui.selected_records();
        if there.len() != ui.selected.with(BTreeSet::len) {
            ui.selected.set(there.into_iter().map(|record| record.key.clone()).collect());
        }
    });
    let all = move || words::SELECT_ALL.with(&[&words::number(ui.store.row_count())]);
    let act = |class: &str, act: Act, name: words::Word| button(class, name.text(), move |_| ui.act_on_selected(act));
    let clear = button("close", "×", move |_| ui.selected.set(BTreeSet::new()));
    el("section")
        .class("selection")
        .attr("data-testid", "selection")
        .attr("aria-label", words::CLEAR_SELECTION.text())
        .child(el("b").attr("role", "status").text_of(count))
        .child(button("", "", move |_| ui.select_all()).attr("data-testid", "select-all").text_of(all))
        .child(act("", Act::Drain, words::DRAIN))
        .child(act("", Act::Undrain, words::UNDRAIN))
        .child(act("danger", Act::Delete, words::DEREGISTER))
        .child(clear.attr("aria-label", words::CLEAR_SELECTION.text()))
}

/// What became of one.
#[derive(Clone, PartialEq)]
enum Outcome {
    /// It is left out, for this reason.
    Skipped(String),
    /// Nothing yet.
    Waiting,
    Working,
    Done,
    /// It failed, for this reason.
    Failed(String),
}

#[derive(Clone)]
struct Line {
    record: Arc<Record>,
    outcome: Outcome,
}

/// The services whose last live instances are among what is still to be done, and what has to be typed for that.
type Guard = Option<(BTreeSet<String>, String)>;

/// What a batch is at.
#[derive(Clone)]
struct Batch {
    act: Act,
    lines: Vec<Line>,
    typed: String,
    working: bool,
    /// What takes all of it back, and the note that offers that.
    tokens: Vec<String>,
    note: u64,
    /// What was done.
    done: Vec<Arc<Record>>,
}

impl Batch {
    fn new(act: Act, records: &[Arc<Record>]) -> Self {
        let line = |record: &Arc<Record>| {
            let is_drained = aftermath::is_drained(record);
            let why_not = match act {
                Act::Drain | Act::Undrain if !aftermath::can_drain(record.layout) || record.instance().is_none() => {
                    Some(words::CANNOT_DRAIN)
                }
                Act::Drain if is_drained => Some(words::ALREADY_DRAINED),
                Act::Undrain if !is_drained => Some(words::NOT_DRAINED),
                _ => None,
            };
            let outcome = why_not.map_or(Outcome::Waiting, |why| Outcome::Skipped(why.text().to_owned()));
            Line { record: Arc::clone(record), outcome }
        };
        let lines = records.iter().map(line).collect();
        Self { act, lines, typed: String::new(), working: false, tokens: Vec::new(), note: 0, done: Vec::new() }
    }

    /// What is still to be done.
    fn open(&self) -> Vec<Arc<Record>> {
        let open = self.lines.iter().filter(|line| matches!(line.outcome, Outcome::Waiting | Outcome::Failed(_)));
        open.map(|line| Arc::clone(&line.record)).collect()
    }

    fn count(&self, is_meant: fn(&Outcome) -> bool) -> usize {
        self.lines.iter().filter(|line| is_meant(&line.outcome)).count()
    }

    fn guard(&self, ui: Ui) -> Guard {
        let open = self.open();
        let services = guarded(ui, self.act, &open);
        let word = match services.first() {
            None => return None,
            Some(only) if services.len() == 1 => only.clone(),
            Some(_) => words::THE_WORD.with(&[&open.len().to_string()]),
        };
        Some((services, word))
    }

    fn is_ready(&self, guard: &Guard) -> bool {
        let is_meant = || guard.as_ref().is_none_or(|(_, word)| self.typed.trim() == word);
        !self.working && !self.open().is_empty() && is_meant()
    }
}

/// The dialog that lists what will happen, and then what did.
pub fn batch(ui: Ui, act: Act, records: &[Arc<Record>]) -> El {
    let asked = Batch::new(act, records);
    let count = words::instances(asked.open().len());
    let name = match act {
        Act::Drain => words::BATCH_DRAIN_TITLE,
        Act::Undrain => words::BATCH_UNDRAIN_TITLE,
        Act::Delete | Act::Revoke => words::BATCH_DELETE_TITLE,
    };
    let asked = RwSignal::new(asked);
    // What has to be typed follows what is left to be done, and what comes and goes meanwhile.
    let needed = Memo::new(move |_| {
        ui.store.follow_anything();
        asked.with(|asked| asked.guard(ui))
    });
    let is_ready = move || needed.with(|needed| asked.with(|asked| asked.is_ready(needed)));
    let submit = move |event: Event| {
        event.prevent_default();
        if untrack(is_ready) {
            spawn_local(run(ui, asked));
        }
    };
    let list = move || needed.with(|needed| asked.with(|asked| groups(ui, asked, needed)));
    let progress = move || {
        asked.with(|asked| {
            let done = asked.count(|outcome| *outcome == Outcome::Done);
            let failed = asked.count(|outcome| matches!(outcome, Outcome::Failed(_)));
            let all = asked.count(|outcome| !matches!(outcome, Outcome::Skipped(_)));
            if failed > 0 && !asked.working {
                words::BATCH_FAILED.with(&[&words::number(failed), &words::number(all)])
            } else if asked.working || done > 0 {
                words::DONE_SO_FAR.with(&[&words::number(done), &words::number(all)])
            } else {
                words::AFTER_UNDO.text().to_owned()
            }
        })
    };
    let why = move || {
        let services: Vec<String> = needed.get().unwrap_or_default().0.into_iter().collect();
        words::TYPE_THE_WORD.with(&[&services.join(words::LIST_COMMA.text())])
    };
    let word = el("b").class("mono").text_of(move || needed.get().unwrap_or_default().1);
    let guard = el("label")
        .class("guard")
        .flag("hidden", move || needed.with(Option::is_none))
        .child(el("span").text_of(why).text(" ").child(word))
        .child(guard(move |text| asked.update(|asked| asked.typed = text)));
    let verb = move || {
        let verb = asked.with(|asked| match asked.act {
            _ if asked.working => words::WORKING,
            _ if asked.count(|outcome| matches!(outcome, Outcome::Failed(_))) > 0 => words::BATCH_AGAIN,
            Act::Drain => words::DRAIN,
            Act::Undrain => words::UNDRAIN,
            Act::Delete | Act::Revoke => words::DEREGISTER,
        });
        verb.text().to_owned()
    };
    let confirm = el("button")
        .class("danger")
        .attr("type", "submit")
        .attr("data-testid", "confirm")
        .flag("disabled", move || !is_ready())
        .text_of(verb);
    let leave = move || {
        let is_over = asked.with(|asked| !asked.done.is_empty());
        if is_over { words::CLOSE.text() } else { words::CANCEL.text() }.to_owned()
    };
    let cancel = button("", "", move |_| close(ui)).attr("data-testid", "cancel").text_of(leave);
    let form = el("form")
        .on("submit", submit)
        .child(title(&name.with(&[&count])))
        .child(el("div").class("batch").attr("tabindex", "0").part(list))
        .child(el("p").class("quiet").attr("role", "status").text_of(progress))
        .child(guard)
        .child(el("footer").child(cancel).child(confirm));
    let has_guard = needed.with_untracked(Option::is_some);
    frame(ui, "wide", form, if has_guard { "[role=dialog] input[type=text]" } else { "[data-testid=cancel]" })
}

/// Does what is still to be done, a few at a time. Where the dialog is closed meanwhile, no more is sent; what was done
/// by then is told, and can be undone.
async fn run(ui: Ui, asked: RwSignal<Batch>) {
    let Batch { act, mut tokens, mut done, note: before, .. } = asked.get_untracked();
    asked.update(|asked| {
        asked.working = true;
        for line in &mut asked.lines {
            if matches!(line.outcome, Outcome::Waiting | Outcome::Failed(_)) {
                line.outcome = Outcome::Working;
            }
        }
    });
    let done_before = done.len();
    let (mut sent, mut failed) = (0, 0);
    loop {
        let chunk: Vec<(usize, Arc<Record>)> = asked
            .try_with_untracked(|asked| {
                let open = asked.lines.iter().enumerate().filter(|(_, line)| line.outcome == Outcome::Working);
                open.take(CHUNK_ACTS).map(|(index, line)| (index, Arc::clone(&line.record))).collect()
            })
            .unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        let results = send(ui, chunk.iter().map(|(_, record)| request(act, record, 0)).collect()).await;
        let mut lines = Vec::new();
        let mut selected = ui.selected.get_untracked();
        for ((index, record), result) in chunk.into_iter().zip(results) {
            let (record, outcome) = match result {
                Ok(answer) => {
                    tokens.extend(token(&answer));
                    selected.remove(&record.key);
                    done.push(Arc::clone(&record));
                    (record, Outcome::Done)
                }
                // Tried again, it is what stands there now that is meant.
                Err(Refused { now: Some(now), .. }) => {
                    let why = words::CHANGED_SHORT.with(&[&acts::in_short(&record, &now)]);
                    (now, Outcome::Failed(why))
                }
                Err(refused) => (record, Outcome::Failed(refused.text)),
            };
            sent += 1;
            failed += usize::from(outcome != Outcome::Done);
            lines.push((index, Line { record, outcome }));
        }
        ui.selected.set(selected);
        asked.try_update(|asked| {
            for (index, line) in lines {
                asked.lines[index] = line;
            }
        });
    }
    let mut note = before;
    if done.len() > done_before {
        let name = words::instances(done.len());
        let text = match act {
            Act::Drain => words::BATCH_DRAINED,
            Act::Undrain => words::BATCH_UNDRAINED,
            Act::Delete | Act::Revoke => words::BATCH_DELETED,
        };
        let undo = Undo { tokens: tokens.clone(), name: name.clone(), puts_back: act == Act::Delete };
        // What is tried again is one act with what was done before: one note takes back all of it.
        note = ui.tell_instead(before, text.with(&[&name]), (!tokens.is_empty()).then_some(undo));
        if before != 0 {
            acts::forget(before);
        }
        acts::note(ui, act, &done, note);
    }
    let is_open = asked.try_update(|asked| {
        asked.working = false;
        (asked.tokens, asked.done, asked.note) = (tokens, done, note);
    });
    match is_open {
        Some(()) if failed == 0 => close(ui),
        // Nobody sees the rows any more.
        None if failed > 0 => {
            ui.tell(words::BATCH_FAILED.with(&[&words::number(failed), &words::number(sent)]), None);
        }
        _ => {}
    }
}

/// The rows by service, with what follows for each framework; what failed comes first.
fn groups(ui: Ui, asked: &Batch, needed: &Guard) -> Vec<El> {
    let mut services: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &asked.lines {
        services.entry(&line.record.service).or_default().push(line);
    }
    let sentence = |line: &Line| aftermath::sentence(line.record.layout, asked.act, line.record.lease.is_some());
    let is_meant = |line: &&Line| !matches!(line.outcome, Outcome::Skipped(_));
    let all: BTreeSet<&str> = asked.lines.iter().filter(is_meant).map(sentence).collect();
    // What is the same for all is said once.
    let of_all = all.first().filter(|_| all.len() == 1 && services.len() > 1);
    let of_all = of_all.map(|sentence| said("p", "", &words::OF_ALL.with(&[sentence])));
    let is_each = of_all.is_none();
    let is_guarded = |service: &str| needed.as_ref().is_some_and(|(services, _)| services.contains(service));
    let mut left = ROWS_MAX;
    let groups = services.into_iter().map(|(service, mut lines)| {
        lines.sort_by_key(|line| !matches!(line.outcome, Outcome::Failed(_)));
        let live = ui.store.read(|live| live.summary(service).instances).max(lines.len());
        let (here, live) = (words::number(lines.len()), words::instances(live));
        let how_many = words::OF_LIVE.with(&[&here, &live]);
        let sentences: BTreeSet<&str> =
            lines.iter().copied().filter(|line| is_each && is_meant(line)).map(sentence).collect();
        let sentences = sentences.into_iter().map(|sentence| said("p", "", sentence));
        let shown = lines.len().min(left);
        left -= shown;
        let more = lines.len() - shown;
        let rows = lines.into_iter().take(shown).map(row);
        let heading = said("h3", "", service).text(" ").child(said("span", "quiet", &how_many));
        el("section")
            .attr_if("data-guarded", is_guarded(service).then_some(""))
            .child(heading)
            .children(sentences)
            .child(el("ul").children(rows))
            .children((more > 0).then(|| said("p", "quiet", &["+ ", &words::number(more)].concat())))
    });
    of_all.into_iter().chain(groups).collect()
}

fn row(line: &Line) -> El {
    let (state, what) = match &line.outcome {
        Outcome::Skipped(why) => ("skipped", words::SKIPPED.with(&[why])),
        Outcome::Waiting => ("waiting", String::new()),
        Outcome::Working => ("working", words::WORKING.text().to_owned()),
        Outcome::Done => ("done", words::DONE.text().to_owned()),
        Outcome::Failed(why) => ("failed", why.clone()),
    };
    let address = line.record.instance().and_then(|instance| instance.endpoints.first().cloned()).unwrap_or_default();
    el("li")
        .attr("data-testid", "act")
        .attr("data-outcome", state)
        .child(said("span", "mono", short_id(&line.record)))
        .child(said("span", "mono quiet", &address))
        .child(said("span", "what", &what))
}
