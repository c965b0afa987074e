//! Reports as one HTML page.

use super::plot::roofline_svg;
use super::{Named, Table};
use crate::error::Result;
use crate::page::document;
use maud::{Markup, PreEscaped, html};

/// The page of one report, or of several that have the networks of the first.
///
/// # Errors
/// When the drawing library cannot draw a plot.
pub(super) fn html(title: &str, reports: &[Named], tables: &[Table]) -> Result<String> {
    let mut plots = Vec::new();
    for network in reports.first().iter().flat_map(|first| &first.report.networks) {
        let same: Vec<_> = reports.iter().filter_map(|named| Some((named, named.report.network(network)?))).collect();
        if let Some(svg) = roofline_svg(&same)? {
            plots.push((network.workload.to_string(), svg));
        }
    }
    let several = reports.len() > 1;
    let body = html! {
        h1 { (title) }
        p { @for named in reports { (named.name) " on " (named.report.device) ". " } }
        @if !plots.is_empty() {
            h2 { "Under the roof" }
            p {
                "Each dot is an op of a training step; a ring, of the gradients. To the right it has more arithmetic for a byte of memory \
                 traffic; the line is what the device can do at most, measured: on the slope memory binds, on the level arithmetic. "
                @if several { "A colour is a result. " } @else { "A colour is a kind of op. " }
                "Ops without arithmetic are in the table only."
            }
            @for (network, svg) in &plots {
                h3 { (network) }
                div class="plot" { (PreEscaped(svg)) }
            }
        }
        @for table in tables { (section(table)) }
    };
    Ok(document(title, &body))
}

fn section(table: &Table) -> Markup {
    html! {
        h2 { (table.title) }
        @for note in &table.notes { p { (note) } }
        @if !table.rows.is_empty() {
            div class="wide" {
                table {
                    thead { tr { @for head in &table.heads { th { (head) } } } }
                    tbody {
                        @for row in &table.rows {
                            tr {
                                @for (column, cell) in row.iter().enumerate() {
                                    @if column == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
