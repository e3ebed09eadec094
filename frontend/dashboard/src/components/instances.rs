//! The table of instances: of one service, or of all that a search means.

use leptos::prelude::*;

use super::{
    element::{El, button, el, said},
    empty::empty,
    later::{self, Later},
    row::{instance_row, place_header},
    scroll::{Scroll, pad_after, pad_before},
};
use crate::{app::Ui, browser, view::Column, words};

/// The height of a row on a narrow page, in pixels. The stylesheet has the same number.
const NARROW_ROW_PX: usize = 68;

/// The table of a service's instances, or of all services'.
pub fn instance_table(ui: Ui, of_it: Option<String>) -> El {
    let of_all = of_it.is_none();
    let sort = ui.sort;
    let scroll = Scroll::new(ui);
    let count = Memo::new(move |_| ui.store.row_count());
    let row_px = Memo::new(move |_| {
        ui.resized.track();
        if ui.narrow.get() { NARROW_ROW_PX } else { browser::row_px() }
    });
    let window = scroll.window(count, row_px);
    let is_empty = Memo::new(move |_| count.get() == 0 && !ui.store.looking.get());
    let shown = move || {
        let window = window.get();
        ui.store.keys(window.start, window.end)
    };
    // The list names keys; the record that a row begins with is the one it was listed with.
    let row =
        move |key: &str| ui.store.read(|live| live.shown(key).cloned()).map(|record| instance_row(ui, record, of_all));
    let still = |name: &str, class: &str| said("th", class, name).attr("scope", "col");
    let header = move |column: Column, name: &str, class: &str| {
        let order = move || match sort.get() {
            (by, descending) if by == column => Some(if descending { "descending" } else { "ascending" }.to_owned()),
            _ => None,
        };
        // Up, then down, then as the keys stand.
        let turn = move |_| {
            sort.update(|sort| {
                *sort = match *sort {
                    (by, false) if by == column => (column, true),
                    (by, true) if by == column => (Column::Key, false),
                    _ => (column, false),
                };
            });
        };
        still("", class).attr_of("aria-sort", order).child(button("", name, turn))
    };
    let mut headers =
        vec![header(Column::State, words::STATE.text(), "c-state"), header(Column::Id, words::ID.text(), "c-id")];
    if of_all {
        headers.push(header(Column::Service, words::SERVICE.text(), "c-service"));
    }
    headers.push(header(Column::Endpoints, words::ENDPOINTS.text(), "c-endpoints"));
    headers.push(header(Column::Version, words::VERSION.text(), "c-version"));
    headers.push(place_header(ui, of_it.clone()));
    headers.push(header(Column::Lease, words::LEASE.text(), "c-lease"));
    headers.push(header(Column::Since, words::SINCE.text(), "c-since"));
    headers.push(still("", "c-act").child(said("span", "hidden", words::ACTIONS.text())));
    let missing = RwSignal::new(0);
    let cell = || el("td").attr("colspan", if of_all { "9" } else { "8" });
    let filler = |cell: El| el("tbody").child(el("tr").class("pad").attr("aria-hidden", "true").child(cell));
    let table = el("table")
        .attr_of("aria-rowcount", move || Some(count.get().to_string()))
        .flag("data-none", move || is_empty.get())
        .child(el("thead").child(el("tr").children(headers)))
        .child(filler(pad_before(cell(), window, row_px)))
        .child(el("tbody").keyed_in(missing, shown, row))
        .child(filler(pad_after(cell(), window, count, row_px, missing)));
    scroll
        .box_of("scroll table")
        .attr_if("data-all", of_all.then_some(""))
        .child(table)
        .part(move || later::when_it_stands(ui, Later::Folded(of_it.clone())))
        .part(move || if is_empty.get() { vec![empty(ui)] } else { Vec::new() })
}
