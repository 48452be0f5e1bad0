//! A report of one host as one page: no script, nothing that is fetched, and no word of another host that steers it.

use anstream::adapter::strip_str;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{map, plan};
use crate::{
    node::protocol::status::{Note, Piece, Status},
    plan::Plan,
    text::{printable, printable_lines},
};

/// Containers that are listed.
const CONTAINERS_MAX: usize = 500;
/// What a page may fetch and run: nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What a report is made of.
pub struct Report {
    /// The host, as it is.
    pub status: Status,
    /// Who owns what.
    pub pieces: Vec<Piece>,
    /// What would change.
    pub plan: Plan,
    /// What the doctor found, in words.
    pub doctor: String,
    /// The configuration file, which holds no secret: passwords are in files of their own.
    pub config: String,
    /// The last lines of the log.
    pub log: String,
    /// When it was made, in words.
    pub made: String,
}

/// The page.
pub fn html(report: &Report) -> String {
    let status = &report.status;
    let title = format!("weavers on {}", printable(&status.nickname));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (headline(status, &report.made))
                (notes("Problems", "bad", &status.problems))
                (notes("Waits for", "wait", &status.waits))
                section { h2 { "Address space " (status.ipam.range) } (map::lanes_of_page(&report.pieces)) }
                (tables(status))
                (peers(status))
                (containers(status))
                (words("Plan", &plan::pending(&report.plan)))
                (words("Doctor", &report.doctor))
                (words("Configuration file", &report.config))
                (words("Log", &report.log))
            }
        }
    };
    page.into_string()
}

/// The same as text.
pub fn text(report: &Report) -> String {
    let heading = |title: &str| format!("\n==== {title} ====\n");
    let parts = [
        super::status::text(&report.status),
        heading("Address space") + &map::text(&report.pieces),
        heading("Plan") + &plan::pending(&report.plan) + "\n",
        heading("Doctor") + &report.doctor,
        heading("Configuration file") + &printable_lines(&report.config),
        heading("Log") + &printable_lines(&report.log),
    ];
    parts.concat()
}

const STYLE: &str = "body{font:15px/1.45 sans-serif;max-width:1100px;margin:0 auto;padding:1em;color:#222;background:#fff}\
h1{font-size:1.4em}h2{font-size:1.1em;margin:1.6em 0 .4em}pre,.wide{overflow-x:auto}pre{background:#f4f4f7;padding:.7em;font-size:13px}\
table{border-collapse:collapse;font-size:14px}td,th{text-align:left;padding:.2em .9em .2em 0;vertical-align:top}\
.state{display:inline-block;padding:.1em .6em;border-radius:.3em;margin-right:.5em;background:#d9f2df}.state.no{background:#f7d9d4}\
li{margin:.3em 0}h1,li,p{overflow-wrap:anywhere}.hint{color:#666}.bad h2{color:#a3200d}.map p{display:flex;flex-wrap:wrap;justify-content:space-between;\
gap:0 1em;margin:.5em 0 .1em;font-size:13px}.map span{color:#666}.map svg{display:block;width:100%;height:14px}.bar{display:inline-block;width:8em;background:#e8e8ee}\
.bar span{display:block;height:.7em;background:#2457b8}\
@media(max-width:600px){tr,td{display:block}tr{margin:.6em 0}td{padding:0;overflow-wrap:anywhere}td:first-child{font-weight:600}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4}}\
@media(prefers-color-scheme:dark){body{color:#e6e6ea;background:#17171b}pre{background:#222228}.state{background:#1d4a2a}\
.state.no{background:#5c2318}.hint,.map span{color:#a0a0aa}.bad h2{color:#ff9a86}.bar{background:#2c2c34}.bar span{background:#8fb4ff}}";

fn headline(status: &Status, made: &str) -> Markup {
    let state = |yes: bool, is: &str, is_not: &str| {
        html! { span class=(if yes { "state" } else { "state no" }) { (if yes { is } else { is_not }) } }
    };
    html! {
        p {
            (state(status.ready, "ready", "not ready"))
            (state(status.converged, "converged", "not converged"))
            "weavers " (status.version) ", peer " (status.name)
            @if let Some(instance) = &status.instance { ", instance " (printable(instance)) }
            @if let Some(interface) = &status.interface { ", interface " (interface) }
            ", " (made)
        }
    }
}

fn notes(title: &str, class: &str, notes: &[Note]) -> Markup {
    html! {
        @if !notes.is_empty() {
            section class=(class) {
                h2 { (title) }
                ul {
                    @for Note { what, hint } in notes {
                        li { (printable(what)) @if let Some(hint) = hint { br; span class="hint" { (printable(hint)) } } }
                    }
                }
            }
        }
    }
}

fn tables(status: &Status) -> Markup {
    html! {
        section {
            h2 { "Route tables" }
            @if status.upkeep.is_empty() { p { "None was read." } }
            div class="wide" {
                table {
                    @for (id, upkeep) in &status.upkeep {
                        tr {
                            td { (id) }
                            td { (upkeep.used) " routes" @if let Some(quota) = upkeep.quota { " of " (quota) } }
                            td {
                                @if let Some(quota) = upkeep.quota {
                                    @let share = (100 * upkeep.used / quota.max(1)).min(100);
                                    span class="bar" { span style=(format!("width:{share}%")) {} }
                                }
                            }
                            td { @if upkeep.kept { "kept" } @else { (printable(&upkeep.missing.join("; "))) } }
                        }
                    }
                }
            }
        }
    }
}

fn peers(status: &Status) -> Markup {
    html! {
        section {
            h2 { "Peers" }
            div class="wide" {
                table {
                    @for peer in &status.connections {
                        tr {
                            td { (printable(peer.nickname.as_deref().unwrap_or(""))) }
                            td { (printable(&peer.address)) }
                            td { (peer.state.word()) }
                            td { (if peer.encrypted { "encrypted" } else { "" }) }
                        }
                    }
                    @for target in status.targets.iter().filter(|target| target.is_missing()) {
                        tr {
                            td { (printable(&target.target)) }
                            td {}
                            td { (target.state.word()) }
                            td { (printable(target.error.as_deref().unwrap_or(""))) }
                        }
                    }
                }
            }
        }
    }
}

fn containers(status: &Status) -> Markup {
    let more = status.attachments.len().saturating_sub(CONTAINERS_MAX);
    html! {
        section {
            h2 { "Containers: " (status.attachments.len()) }
            div class="wide" {
                table {
                    @for one in status.attachments.iter().take(CONTAINERS_MAX) {
                        tr {
                            td { @if let Some(address) = one.address { (address) } }
                            td { (printable(one.name.as_deref().unwrap_or(&one.ident))) }
                            td { (one.ports.join(", ")) }
                            td { (printable(one.missing.as_deref().unwrap_or("connected"))) }
                        }
                    }
                }
            }
            @if more > 0 { p { "and " (more) " more" } }
        }
    }
}

fn words(title: &str, words: &str) -> Markup {
    let plain = printable_lines(&strip_str(words).to_string());
    html! { @if !plain.trim().is_empty() { section { h2 { (title) } pre { (plain) } } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let status = serde_json::from_str(include_str!("../../../tests/it/data/status.json")).unwrap();
        Report {
            status,
            pieces: Vec::new(),
            plan: Plan::default(),
            doctor: "ok".to_owned(),
            config: "peers = []".to_owned(),
            log: String::new(),
            made: "made now".to_owned(),
        }
    }

    #[test]
    fn what_others_say_is_neither_markup_nor_a_control_character_in_a_page() {
        let mut report = report();
        report.status.nickname = "<img src=x onerror=alert(1)>".to_owned();
        report.status.problems = vec![Note {
            what: "<script>alert(2)</script>\u{1b}[2J".to_owned(),
            hint: Some("\"><b>".to_owned()),
        }];
        report.log = "\u{1b}]0;title\u{7}</pre><script>".to_owned();
        let page = html(&report);
        for evil in ["<img", "<script", "<b>", "\u{1b}", "\u{7}"] {
            assert!(!page.contains(evil), "{evil:?} is in the page");
        }
    }

    #[test]
    fn a_page_fetches_nothing_and_has_what_was_said() {
        let page = html(&report());
        assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"), "{page}");
        assert!(
            !page.contains("http://www.w3.org/1999") && !page.contains("<link") && !page.contains("url(http")
        );
        for part in ["Route tables", "Peers", "Containers: ", "Doctor", "Configuration file"] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert!(!page.contains("<h2>Log"), "what is empty is left out");
    }
}
