//! The table of instances: of one service, or of all that a search means.

use std::{cmp::Ordering, sync::Arc};

use leptos::prelude::*;
use rollcall_shared::Record;

use super::{
    empty::Empty,
    row::{InstanceRow, short_id},
    scroll::{Scroll, rows_px},
};
use crate::{app::Ui, words};

/// The height of a row, and of one on a narrow page, in pixels. The stylesheet has the same numbers.
const ROW_PX: f64 = 32.0;
const NARROW_ROW_PX: f64 = 68.0;

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
#[component]
pub fn InstanceTable(service: Option<String>) -> impl IntoView {
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
        rows.with(|rows| rows.get(window.start..window.end.min(rows.len())).unwrap_or_default().to_vec())
    };
    let header = move |column: Column, name: &'static str, class: &'static str| {
        let order = move || match sort.get() {
            (by, descending) if by == column => Some(if descending { "descending" } else { "ascending" }),
            _ => None,
        };
        let turn = move |_| sort.update(|(by, down)| (*by, *down) = (column, *by == column && !*down));
        view! {
            <th scope="col" class=class aria-sort=order>
                <button type="button" on:click=turn>{name}</button>
            </th>
        }
    };
    let still = move |name: &'static str, class: &'static str| view! { <th scope="col" class=class>{name}</th> };
    let columns = if of_all { "8" } else { "7" };
    view! {
        <div class="scroll table" data-all=of_all.then_some("") node_ref=scroll.element on:scroll=move |_| scroll.follow()>
            <table aria-rowcount=move || count.get() hidden=move || is_empty.get()>
                <thead>
                    <tr>
                        {still(words::STATE, "c-state")} {header(Column::Id, words::ID, "c-id")}
                        {of_all.then(|| header(Column::Service, words::SERVICE, "c-service"))}
                        {header(Column::Endpoints, words::ENDPOINTS, "c-endpoints")}
                        {header(Column::Version, words::VERSION, "c-version")} {still(words::METADATA, "c-meta")}
                        {still(words::LEASE, "c-lease")}
                        <th scope="col" class="c-act">
                            <span class="hidden">{words::ACTIONS}</span>
                        </th>
                    </tr>
                </thead>
                <tbody>
                    <tr class="pad" aria-hidden="true">
                        <td colspan=columns style:height=move || rows_px(window.get().start, row_px.get())></td>
                    </tr>
                    <For each=shown key=|record| record.key.clone() let:record>
                        <InstanceRow record of_all />
                    </For>
                    <tr class="pad" aria-hidden="true">
                        <td
                            colspan=columns
                            style:height=move || rows_px(count.get().saturating_sub(window.get().end), row_px.get())
                        ></td>
                    </tr>
                </tbody>
            </table>
            {move || is_empty.get().then(|| view! { <Empty /> })}
        </div>
    }
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
