//! The bar above everything: the name, the search, how it is with the connection, and what can be done anywhere.

use leptos::prelude::*;
use rollcall_client::Connection;
use rollcall_shared::api::EtcdState;

use super::element::{El, button, el, said};
use crate::{app::Ui, browser, route::Address, store::Status, words};

/// The connection's state, as `data-state` has it.
pub fn state(status: &Status) -> &'static str {
    match (status.connection, status.etcd) {
        (Connection::Open, Some((EtcdState::Live, _))) => "live",
        (Connection::Open, Some((EtcdState::Stale, _))) => "stale",
        (Connection::Open, Some((EtcdState::Unreachable, _))) => "unreachable",
        _ => "reconnecting",
    }
}

const MARK: &str = concat!(
    r#"<svg viewBox="0 0 16 16" width="18" height="18" aria-hidden="true">"#,
    r#"<rect x="1" y="2" width="3" height="3" rx="1.5"/><rect x="1" y="6.5" width="3" height="3" rx="1.5"/>"#,
    r#"<rect x="1" y="11" width="3" height="3" rx="1.5" class="off"/><rect x="6" y="2.5" width="9" height="2" rx="1"/>"#,
    r#"<rect x="6" y="7" width="9" height="2" rx="1"/>"#,
    r#"<rect x="6" y="11.5" width="6" height="2" rx="1" class="off"/></svg>"#
);

const HALF: &str = concat!(
    r#"<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">"#,
    r#"<circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" stroke-width="1.5"/>"#,
    r#"<path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor"/></svg>"#
);

const LINES: &str = concat!(
    r#"<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">"#,
    r#"<path d="M2 3.5h12M2 6.5h12M2 9.5h12M2 12.5h12"/></svg>"#
);

/// The top bar.
pub fn top_bar(ui: Ui) -> El {
    let cluster = browser::cluster_name();
    let brand = el("a")
        .class("brand")
        .attr("href", &Address::default().href())
        .attr("aria-label", [words::NAME.text(), " ", &cluster].concat().trim_end())
        .markup(MARK)
        .child(said("span", "", words::NAME.text()))
        .text(" ")
        .child(said("span", "cluster", &cluster).attr("title", &cluster));
    let search = el("input")
        .attr("type", "search")
        .attr("name", "q")
        .attr("aria-label", words::SEARCH.text())
        .attr("placeholder", words::SEARCH_HINT.text())
        .attr("autocomplete", "off")
        .attr("spellcheck", "false")
        .value_of(move || ui.address.with(|address| address.search.clone()))
        .on("input", move |event| ui.search_for(event_target_value(&event)));
    let find = el("div").class("find").child(search).child(said("kbd", "", "/").attr("aria-hidden", "true"));
    let pane = button("pane", words::ACTIVITY.text(), move |_| ui.activity.update(|shown| *shown = !*shown))
        .attr_of("aria-pressed", move || Some(ui.activity.get().to_string()));
    let register =
        button("primary", words::REGISTER.text(), move |_| ui.form.set(true)).attr("data-testid", "register");
    let icon = |class: &str, label: words::Word, press: fn(Ui)| {
        button(class, "", move |_| press(ui)).attr("aria-label", label.text()).attr("title", label.text())
    };
    let (short, lang) = if ui.chinese.get_untracked() { ("EN", "en") } else { ("中", "zh-CN") };
    let tools = el("div").class("tools").children([
        icon("icon rows", words::ROWS, Ui::switch_rows).markup(LINES),
        icon("icon language", words::LANGUAGE, Ui::switch_language).attr("lang", lang).text(short),
        icon("icon theme", words::THEME, |_| Ui::switch_theme()).markup(HALF),
    ]);
    el("header").class("top").children([brand, find, status_words(ui), pane, register, tools])
}

fn status_words(ui: Ui) -> El {
    let status = ui.store.status;
    let sentence = move || {
        let status = status.get();
        if status.unreadable {
            return words::RELOAD.text().to_owned();
        }
        match (status.connection, status.etcd) {
            (Connection::Open, Some((EtcdState::Live, _))) => words::LIVE.text().to_owned(),
            (Connection::Open, Some((etcd, since_ms))) => {
                let passed_ms = (ui.store.now_ms.get() - since_ms).max(0.0);
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
                let for_s = (passed_ms / 1_000.0) as u64;
                words::etcd_away(etcd == EtcdState::Stale, for_s, &browser::clock(since_ms))
            }
            (Connection::Connecting, _) => words::CONNECTING.text().to_owned(),
            _ => words::RECONNECTING.text().to_owned(),
        }
    };
    let reload = move || {
        let press = |_| drop(window().location().reload());
        if status.get().unreadable { vec![button("", words::RELOAD_NOW.text(), press)] } else { Vec::new() }
    };
    el("p")
        .class("status")
        .attr("role", "status")
        .attr("data-testid", "status")
        .attr_of("data-state", move || Some(state(&status.get()).to_owned()))
        .child(el("span").class("dot"))
        .child(el("span").text_of(sentence))
        .part(reload)
}
