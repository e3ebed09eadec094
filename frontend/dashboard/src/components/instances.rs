//! The table of instances: of one service, or of all that a search means.

use std::{cmp::Ordering, sync::Arc};

use leptos::prelude::*;
use rollcall_shared::Record;

use super::{
    empty::empty,
    erased::{Flag, flag, keyed, nothing, part, text},
    row::{instance_row, short_id},
    scroll::{Scroll, rows_px},
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
pub fn instance_table(service: Option<String>) -> AnyView {
    let ui = Ui::get();
    let of_all = service.is_none();
    let found = ui.store.rows(service, ui.search);
    let sort = RwSignal::new((Column::Key, false));
    let rows = Memo::new_with_compare(move |_| sorted(found.get(), sort.get()), |_, _| true);
    let scroll = Scroll::new(ui);
    let count = Signal::derive(move || rows.with(|rows| rows.len()));
    let row_px = Signal::derive(move || if ui.narrow.get() { NARROW_ROW_PX } else { ROW_PX });
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
    let row = move |key: String| {
        let found = rows.with_untracked(|rows| rows.iter().find(|record| record.key == key).cloned());
        found.map_or_else(nothing, |record| instance_row(record, of_all))
    };
    let header = move |column: Column, name: &'static str, class: &'static str| {
        let order = Box::new(move || match sort.get() {
            (by, descending) if by == column => Some(if descending { "descending" } else { "ascending" }),
            _ => None,
        }) as Flag;
        let turn = move |_| sort.update(|(by, down)| (*by, *down) = (column, *by == column && !*down));
        view! {
            <th scope="col" class=class aria-sort=order>
                <button type="button" on:click=turn>
                    {name}
                </button>
            </th>
        }
        .into_any()
    };
    let still = |name: &'static str, class: &'static str| view! { <th scope="col" class=class>{name}</th> }.into_any();
    let before = text(move || rows_px(window.get().start, row_px.get()));
    let after = text(move || rows_px(count.get().saturating_sub(window.get().end), row_px.get()));
    let other = if of_all { header(Column::Service, words::SERVICE, "c-service") } else { nothing() };
    let version = if of_all { nothing() } else { header(Column::Version, words::VERSION, "c-version") };
    view! {
        <div
            class="scroll table"
            data-all=of_all.then_some("")
            node_ref=scroll.element
            on:scroll=move |_| scroll.follow()
        >
            <table aria-rowcount=text(move || count.get().to_string()) data-none=flag(move || is_empty.get())>
                <thead>
                    <tr>
                        {still(words::STATE, "c-state")} {header(Column::Id, words::ID, "c-id")} {other}
                        {header(Column::Endpoints, words::ENDPOINTS, "c-endpoints")} {version}
                        {still(words::METADATA, "c-meta")} {still(words::LEASE, "c-lease")}
                        <th scope="col" class="c-act">
                            <span class="hidden">{words::ACTIONS}</span>
                        </th>
                    </tr>
                </thead>
                <tbody>
                    <tr class="pad" aria-hidden="true">
                        <td colspan="7" style:height=before></td>
                    </tr>
                    {keyed(shown, row)}
                    <tr class="pad" aria-hidden="true">
                        <td colspan="7" style:height=after></td>
                    </tr>
                </tbody>
            </table>
            {part(move || if is_empty.get() { empty() } else { nothing() })}
        </div>
    }
    .into_any()
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
