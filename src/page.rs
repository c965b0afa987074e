//! What the HTML pages share: their head and their looks. A page needs nothing else: no network, no script, no other file.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "
:root { --ink: #1c2430; --paper: #fbfbfa; --line: #d9dde3; --soft: #667085; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 2.5rem 1.25rem 5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { font-size: 1.9rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 3rem 0 .25rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { margin: .25rem 0 1rem; color: var(--soft); max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem; background: #fff; }
.tile b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tile.long b { font-size: .95rem; }
.tile span { color: var(--soft); font-size: .8rem; }
.plot { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .5rem; margin: 1rem 0; }
.plot svg { width: 100%; height: auto; display: block; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; margin: .75rem 0 1.5rem; }
.row.four { grid-template-columns: repeat(4, 1fr); }
figure { margin: 0; }
figure img { width: 100%; display: block; border-radius: 4px; background: #000; }
figcaption { color: var(--soft); font-size: .8rem; padding-top: .25rem; overflow-wrap: anywhere; }
.failure { max-width: none; color: var(--ink); background: #fdecea; border-left: 4px solid #b42318; padding: .75rem 1rem;
  overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 1.25rem 0 0; font-weight: 600; overflow-wrap: anywhere; }
h3 span { color: var(--soft); font-weight: 400; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 1rem; background: #fff; }
th, td { border: 1px solid var(--line); padding: .35rem .75rem; text-align: right; font-weight: 400; }
thead th, th[scope=row] { background: #f2f4f7; font-weight: 600; }
.wide { overflow-x: auto; }
.wide th[scope=row] { text-align: left; }
pre { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 1rem; overflow-x: auto; font-size: .85rem; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; vertical-align: -.05em; margin: 0 .3em 0 .8em; }
@media (max-width: 640px) { .row.four { grid-template-columns: repeat(2, 1fr); } }
";

/// A whole page.
pub(crate) fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – tilewise" }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}
