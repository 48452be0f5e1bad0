//! The container address space as a picture: a lane for each owner, over the whole range.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::columns;
use crate::{node::protocol::status::Piece, peer::PeerName};

/// Owners that have a lane of their own; the others share the last one.
const LANES_MAX: usize = 24;
/// Cells of a lane in text.
const CELLS: usize = 60;
/// The picture, in units of its own.
const WIDTH: f64 = 1000.0;
/// So wide a piece is drawn at least, to be seen.
const WIDTH_MIN: f64 = 1.5;
const LANE_HEIGHT: f64 = 34.0;
const BAR_HEIGHT: f64 = 14.0;

/// What one owner has.
#[derive(Clone, Debug, Default)]
struct Lane {
    name: String,
    own: bool,
    unreachable: bool,
    /// Where its pieces lie, from 0 to 1, and which share of each is used.
    spans: Vec<(f64, f64, f64)>,
    size: u64,
    used: u64,
    quarantined: u64,
}

impl Lane {
    fn add(&mut self, piece: &Piece, from: f64, to: f64) {
        let used = piece.size.saturating_sub(piece.free);
        self.spans.push((from, to, f64::from(used) / f64::from(piece.size.max(1))));
        self.size += u64::from(piece.size);
        self.used += u64::from(used);
        self.quarantined += u64::from(piece.quarantined);
    }

    /// What is to be known of it, in words.
    fn words(&self) -> String {
        // Others tell it when somebody runs short, and not before.
        let state = match (self.own, self.unreachable) {
            (true, _) => ", this host",
            (false, true) => " as last told, not reached",
            (false, false) => " as last told",
        };
        let quarantine = match self.quarantined {
            0 => String::new(),
            some => format!(", {some} in quarantine"),
        };
        format!("{} addresses{quarantine}, {} used{state}", self.size, self.used)
    }
}

/// This host first, then those that own most.
fn lanes(pieces: &[Piece]) -> Vec<Lane> {
    let total: f64 = pieces.iter().map(|piece| f64::from(piece.size)).sum::<f64>().max(1.0);
    let mut of: BTreeMap<PeerName, Lane> = BTreeMap::new();
    let mut at = 0.0;
    for piece in pieces {
        let lane = of.entry(piece.peer).or_insert_with(|| Lane {
            name: piece.nickname.clone().unwrap_or_else(|| piece.peer.to_string()),
            own: piece.own,
            unreachable: !piece.reachable,
            ..Lane::default()
        });
        let to = at + f64::from(piece.size);
        lane.add(piece, at / total, to / total);
        at = to;
    }
    let mut lanes: Vec<Lane> = of.into_values().collect();
    lanes.sort_by_key(|lane| (!lane.own, std::cmp::Reverse(lane.size)));
    if lanes.len() > LANES_MAX {
        let rest = lanes.split_off(LANES_MAX - 1);
        lanes.push(together(&rest));
    }
    lanes
}

fn together(lanes: &[Lane]) -> Lane {
    let gone = lanes.iter().filter(|lane| lane.unreachable).count();
    let named = if gone == 0 { String::new() } else { format!(", {gone} of them not reached") };
    Lane {
        name: format!("{} others{named}", lanes.len()),
        spans: lanes.iter().flat_map(|lane| lane.spans.iter().copied()).collect(),
        size: lanes.iter().map(|lane| lane.size).sum(),
        used: lanes.iter().map(|lane| lane.used).sum(),
        quarantined: lanes.iter().map(|lane| lane.quarantined).sum(),
        ..Lane::default()
    }
}

/// As text: `.` is others', `-` free, `+` used in part, `#` used for the most part.
pub fn text(pieces: &[Piece]) -> String {
    if pieces.is_empty() {
        return "nobody owns anything yet: the peers have not agreed on a ring\n".to_owned();
    }
    let rows = lanes(pieces)
        .iter()
        .map(|lane| vec![lane.name.clone(), cells(lane), lane.words()])
        .collect::<Vec<_>>();
    let mut text = columns(&rows, &[2, 2]).join("\n");
    text += "\n\n. another's   - free   + used in part   # used for the most part\n";
    text
}

fn cells(lane: &Lane) -> String {
    let cell = |number: usize| {
        let (from, to) = (number as f64 / CELLS as f64, (number + 1) as f64 / CELLS as f64);
        let shares =
            lane.spans.iter().map(|(start, end, used)| ((end.min(to) - start.max(from)).max(0.0), used));
        let (owned, used) =
            shares.fold((0.0, 0.0), |(owned, used), (share, of)| (owned + share, used + share * of));
        match used / f64::max(owned, f64::MIN_POSITIVE) {
            _ if owned <= 0.0 => '.',
            share if share >= 0.75 => '#',
            share if share > 0.0 => '+',
            _ => '-',
        }
    };
    (0..CELLS).map(cell).collect()
}

/// The same as a picture, which is whole XML by itself.
pub fn svg(pieces: &[Piece]) -> Markup {
    let lanes = lanes(pieces);
    let height = LANE_HEIGHT * lanes.len().max(1) as f64 + 6.0;
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) role="img" {
            title { "The container address space, by owner" }
            style { (STYLE) }
            (hatching())
            @for (number, lane) in lanes.iter().enumerate() {
                (drawn(lane, LANE_HEIGHT * number as f64))
            }
        }
    }
}

/// The lanes for a page: what is to be read stands beside the pictures, which are as wide as the page, whatever that is.
pub fn lanes_of_page(pieces: &[Piece]) -> Markup {
    let lanes = lanes(pieces);
    let view = format!("0 0 {WIDTH} {BAR_HEIGHT}");
    html! {
        @if lanes.is_empty() { p { "Nobody owns anything yet: the peers have not agreed on a ring." } }
        div class="map" {
            svg width="0" height="0" style="position:absolute" aria-hidden="true" { style { (STYLE) } (hatching()) }
            @for lane in &lanes {
                p { b { (shown(&lane.name)) } span { (lane.words()) } }
                svg viewBox=(view) preserveAspectRatio="none" class=[lane.own.then_some("mine")] aria-hidden="true" {
                    (bar(lane, 0.0))
                }
            }
        }
    }
}

/// For what belongs to a peer that is not reached.
fn hatching() -> Markup {
    html! {
        defs {
            pattern id="gone" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                rect width="6" height="6" class="free" {}
                rect width="2" height="6" class="stripe" {}
            }
        }
    }
}

const STYLE: &str = ".map-name{font:600 12px sans-serif;fill:#222}.map-words{font:12px sans-serif;fill:#666}.lane{fill:#e8e8ee}\
.free{fill:#9bbcf0}.used{fill:#2457b8}.mine .free{fill:#9fd8ae}.mine .used{fill:#1c7a3a}.stripe{fill:#b8860b}\
@media(prefers-color-scheme:dark){.map-name{fill:#eee}.map-words{fill:#aaa}.lane{fill:#2c2c34}.free{fill:#35558c}\
.used{fill:#8fb4ff}.mine .free{fill:#2c6a40}.mine .used{fill:#7fe0a0}}";

fn drawn(lane: &Lane, top: f64) -> Markup {
    let text = top + 12.0;
    html! {
        g class=[lane.own.then_some("mine")] {
            text x="0" y=(text) class="map-name" { (shown(&lane.name)) }
            text x=(WIDTH) y=(text) class="map-words" text-anchor="end" { (lane.words()) }
            (bar(lane, top + 17.0))
        }
    }
}

/// Where its pieces lie, and how far each is used.
fn bar(lane: &Lane, top: f64) -> Markup {
    html! {
        rect x="0" y=(top) width=(WIDTH) height=(BAR_HEIGHT) class="lane" {}
        @for (from, to, used) in &lane.spans {
            @let (x, width) = (from * WIDTH, ((to - from) * WIDTH).max(WIDTH_MIN));
            @if lane.unreachable {
                rect x=(x) y=(top) width=(width) height=(BAR_HEIGHT) fill="url(#gone)" {}
            } @else {
                rect x=(x) y=(top) width=(width) height=(BAR_HEIGHT) class="free" {}
            }
            rect x=(x) y=(top) width=(width * used) height=(BAR_HEIGHT) class="used" {}
        }
    }
}

/// A name from another host is shown as what it is.
fn shown(name: &str) -> String {
    crate::text::printable(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(peer: u64, size: u32, free: u32) -> Piece {
        Piece {
            range: String::new(),
            size,
            peer: PeerName::from_u64(peer),
            nickname: Some(format!("host-{peer}")),
            reachable: peer != 3,
            own: peer == 1,
            quarantined: if peer == 2 { 4 } else { 0 },
            free,
        }
    }

    #[test]
    fn a_lane_shows_where_the_pieces_of_an_owner_lie_and_how_far_they_are_used() {
        let pieces = [piece(2, 256, 0), piece(1, 512, 512), piece(3, 256, 200), piece(1, 512, 100)];
        insta::assert_snapshot!(text(&pieces), @r"
        host-1  ..........--------------------..........####################  1024 addresses, 412 used, this host
        host-2  ##########..................................................  256 addresses, 4 in quarantine, 256 used as last told
        host-3  ..............................++++++++++....................  256 addresses, 56 used as last told, not reached

        . another's   - free   + used in part   # used for the most part
        ");
    }

    #[test]
    fn of_five_hundred_owners_the_largest_have_a_lane_and_the_others_one_together() {
        let pieces: Vec<Piece> = (1..=500).map(|peer| piece(peer, 1 + peer as u32, 0)).collect();
        let lanes = lanes(&pieces);
        assert_eq!(lanes.len(), LANES_MAX);
        assert!(lanes[0].own);
        let last = lanes.last().unwrap();
        assert_eq!(last.name, "477 others, 1 of them not reached");
        assert_eq!(lanes.iter().map(|lane| lane.size).sum::<u64>(), (2..=501).sum::<u64>());
    }

    #[test]
    fn on_a_page_each_lane_has_its_words_as_text_and_its_picture_is_as_wide_as_the_page() {
        let page = lanes_of_page(&[piece(1, 512, 100), piece(3, 256, 200)]).into_string();
        assert!(page.contains("<b>host-1</b><span>512 addresses, 412 used, this host</span>"), "{page}");
        assert!(page.contains("not reached") && page.contains("url(#gone)"), "{page}");
        assert_eq!(page.matches("preserveAspectRatio=\"none\"").count(), 2);
        assert!(!page.contains("<text"), "it would shrink with the picture: {page}");
        assert!(lanes_of_page(&[]).into_string().contains("Nobody owns anything yet"));
    }

    #[test]
    fn a_name_from_another_host_writes_no_element_of_its_own() {
        let evil = Piece { nickname: Some("</text><script>alert(1)</script>".into()), ..piece(2, 256, 0) };
        let svg = svg(&[evil]).into_string();
        assert!(!svg.contains("<script"), "{svg}");
        assert!(svg.contains("&lt;script&gt;"), "{svg}");
    }
}
