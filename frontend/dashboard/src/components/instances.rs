//! The table of instances: of one service, or of all that a search means.

use std::{cmp::Ordering, sync::Arc};

use leptos::prelude::*;
use rollcall_shared::Record;

use super::{
    element::{El, button, el, said},
    empty::empty,
    row::{instance_row, short_id},
    scroll::{Scroll, pad},
};
use crate::{app::Ui, words};

/// The height of a row, and of one on a narrow page, in pixels. The stylesheet has the same numbers.
const ROW_PX: usize = 32;
const NARROW_ROW_PX: usize = 68;

/// What the table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Key,
    Id,
    Service,
    Endpoints,
    Version,
}

/// The table of a service's instances, or of all services'.
pub fn instance_table(ui: Ui, service: Option<String>) -> El {
    let of_all = service.is_none();
    let found = ui.store.rows(service, ui.search);
    let sort = RwSignal::new((Column::Key, false));
    let rows = Memo::new_with_compare(move |_| sorted(found.get(), sort.get()), |_, _| true);
    let scroll = Scroll::new(ui);
    let count = Memo::new(move |_| rows.with(|rows| rows.len()));
    let row_px = Memo::new(move |_| if ui.narrow.get() { NARROW_ROW_PX } else { ROW_PX });
    let window = scroll.window(count, row_px);
    let is_empty = Memo::new(move |_| count.get() == 0);
    let shown = move || {
        let window = window.get();
        rows.with(|rows| {
            let shown = rows.get(window.start..window.end.min(rows.len())).unwrap_or_default();
            shown.iter().map(|record| record.key.clone()).collect()
        })
    };
    // The list names keys; the record that a row begins with is the one it was listed with.
    let row = move |key: &str| {
        let found = rows.with_untracked(|rows| rows.iter().find(|record| record.key == key).cloned());
        found.map(|record| instance_row(ui, record, of_all))
    };
    let still = |name: &str, class: &str| said("th", class, name).attr("scope", "col");
    let header = move |column: Column, name: &str, class: &str| {
        let order = move || match sort.get() {
            (by, descending) if by == column => Some(if descending { "descending" } else { "ascending" }.to_owned()),
            _ => None,
        };
        let turn = move |_| sort.update(|(by, down)| (*by, *down) = (column, *by == column && !*down));
        still("", class).attr_of("aria-sort", order).child(button("", name, turn))
    };
    let mut headers = vec![still(words::STATE.text(), "c-state"), header(Column::Id, words::ID.text(), "c-id")];
    if of_all {
        headers.push(header(Column::Service, words::SERVICE.text(), "c-service"));
    }
    headers.push(header(Column::Endpoints, words::ENDPOINTS.text(), "c-endpoints"));
    if !of_all {
        headers.push(header(Column::Version, words::VERSION.text(), "c-version"));
    }
    headers.push(still(words::METADATA.text(), "c-meta"));
    headers.push(still(words::LEASE.text(), "c-lease"));
    headers.push(still("", "c-act").child(said("span", "hidden", words::ACTIONS.text())));
    let filler = |before: bool| {
        let cell = pad(el("td").attr("colspan", "7"), window, count, row_px, before);
        el("tbody").child(el("tr").class("pad").attr("aria-hidden", "true").child(cell))
    };
    let table = el("table")
        .attr_of("aria-rowcount", move || Some(count.get().to_string()))
        .flag("data-none", move || is_empty.get())
        .child(el("thead").child(el("tr").children(headers)))
        .child(filler(true))
        .child(el("tbody").keyed(shown, row))
        .child(filler(false));
    scroll
        .box_of("scroll table")
        .attr_if("data-all", of_all.then_some(""))
        .child(table)
        .part(move || if is_empty.get() { vec![empty(ui)] } else { Vec::new() })
}

fn sorted(rows: Arc<Vec<Arc<Record>>>, (column, descending): (Column, bool)) -> Arc<Vec<Arc<Record>>> {
    if (column, descending) == (Column::Key, false) {
        return rows;
    }
    let mut rows = Arc::unwrap_or_clone(rows);
    rows.sort_by(|a, b| {
        let order = compare(a, b, column);
        if descending { order.reverse() } else { order }
    });
    Arc::new(rows)
}

fn compare(a: &Record, b: &Record, column: Column) -> Ordering {
    match column {
        Column::Key => a.key.cmp(&b.key),
        Column::Id => short_id(a).cmp(short_id(b)),
        Column::Service => a.service.cmp(&b.service),
        Column::Endpoints => a.instance().map(|i| &i.endpoints).cmp(&b.instance().map(|i| &i.endpoints)),
        Column::Version => a.instance().map(|i| &i.version).cmp(&b.instance().map(|i| &i.version)),
    }
}
