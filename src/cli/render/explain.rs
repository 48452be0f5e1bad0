//! What there is to know of an address: a sentence, then whose it is, what carries it, what is missing.

use super::{columns, printable};
use crate::{
    node::protocol::{
        explanation::{Carrier, Explanation, Standing},
        status::PathKind,
    },
    state::RouteState,
};

/// The explanation for people.
pub fn text(explanation: &Explanation) -> String {
    let Explanation { address, ipv6, summary, standing, .. } = explanation;
    let both = ipv6.filter(|_| *standing != Standing::Outside).map(|ipv6| format!(" ({ipv6})"));
    let mut text = format!("{address}{}: {}\n", both.unwrap_or_default(), printable(summary));
    let rows: Vec<Vec<String>> = owner(explanation)
        .into_iter()
        .chain(container(explanation))
        .chain(path(explanation))
        .chain(host(explanation))
        .chain(explanation.tables.iter().map(carrier))
        .collect();
    for line in columns(&rows, &[2]) {
        text += &format!("  {line}\n");
    }
    for note in &explanation.missing {
        text += &format!("missing: {}\n", printable(&note.what));
        text +=
            &note.hint.as_ref().map_or_else(String::new, |hint| format!("   hint: {}\n", printable(hint)));
    }
    if explanation.missing.is_empty() && *standing != Standing::Outside {
        text += "nothing is missing\n";
    }
    text
}

fn owner(explanation: &Explanation) -> Option<Vec<String>> {
    let piece = explanation.piece.as_ref()?;
    let reachable = match (explanation.standing, piece.reachable) {
        (Standing::Peer, true) => "reachable",
        (Standing::Peer, false) => "unreachable",
        _ => "this host",
    };
    Some(vec!["owner".to_owned(), format!("{}, {reachable}", piece.owner()), format!("of {}", piece.range)])
}

fn container(explanation: &Explanation) -> Option<Vec<String>> {
    let container = explanation.container.as_ref()?;
    let state = container.missing.as_ref().map_or("connected".to_owned(), |what| format!("lacks {what}"));
    Some(vec!["container".to_owned(), container.ident.clone(), format!("{}, {state}", container.netns)])
}

/// The path to the host of its owner, where it is not that of the VPC.
fn path(explanation: &Explanation) -> Option<Vec<String>> {
    let path = explanation.path.as_ref().filter(|path| path.path != PathKind::Vpc)?;
    Some(vec!["path".to_owned(), path.path.word().to_owned(), path.by()])
}

fn host(explanation: &Explanation) -> Option<Vec<String>> {
    let route = match &explanation.host {
        Some(route) => vec![route.destination.to_string(), format!("-> {}", route.target)],
        None if explanation.standing == Standing::Outside => return None,
        None => vec!["by its uplink".to_owned()],
    };
    Some([vec!["host".to_owned()], route].concat())
}

fn carrier(carrier: &Carrier) -> Vec<String> {
    let Carrier { table, destination, target, state, here } = carrier;
    let (Some(destination), Some(target)) = (destination, target) else {
        return vec![table.to_string(), "no route".to_owned()];
    };
    let table = &table.table;
    let state = match state {
        Some(RouteState::Active) => "active",
        Some(RouteState::Blackhole) => "blackhole",
        Some(RouteState::Other) | None => "unknown state",
    };
    let whose = if *here { ", this host" } else { "" };
    vec![table.to_string(), destination.to_string(), format!("-> {target}{whose}, {state}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        node::protocol::{
            explanation::HostRoute,
            status::{AttachmentStatus, Note, Piece},
        },
        peer::PeerName,
        state::TableId,
    };

    fn of_a_container() -> Explanation {
        let address = "10.32.0.1".parse().unwrap();
        Explanation {
            format_version: "1.0".to_owned(),
            address,
            ipv6: None,
            standing: Standing::Used,
            summary: "container `web` on this host".to_owned(),
            piece: Some(Piece {
                range: "10.32.0.0/13".to_owned(),
                size: 524_288,
                peer: PeerName::from_u64(0x0200_0000_0001),
                nickname: Some("h1".to_owned()),
                reachable: true,
                own: true,
                quarantined: 0,
                free: 524_286,
            }),
            ident: Some("web".to_owned()),
            container: Some(AttachmentStatus {
                ident: "web".to_owned(),
                netns: "/run/netns/web".to_owned(),
                address: Some(address),
                name: None,
                ports: Vec::new(),
                missing: None,
            }),
            path: None,
            host: Some(HostRoute {
                destination: "10.32.0.1/32".parse().unwrap(),
                target: "wv0a200001".to_owned(),
            }),
            tables: vec![Carrier {
                table: TableId("rtb-0a1".to_owned()).into(),
                destination: Some("10.32.0.0/13".parse().unwrap()),
                target: Some("eni-self".to_owned()),
                state: Some(RouteState::Active),
                here: true,
            }],
            missing: Vec::new(),
        }
    }

    #[test]
    fn an_address_at_work_is_followed_from_its_owner_to_the_link() {
        insta::assert_snapshot!(text(&of_a_container()), @r"
        10.32.0.1: container `web` on this host
          owner      h1 (02:00:00:00:00:01), this host  of 10.32.0.0/13
          container  web                                /run/netns/web, connected
          host       10.32.0.1/32                       -> wv0a200001
          rtb-0a1    10.32.0.0/13                       -> eni-self, this host, active
        nothing is missing
        ");
    }

    #[test]
    fn what_is_missing_comes_with_the_way_out() {
        let mut explanation = of_a_container();
        explanation.tables[0].destination = None;
        let what = "rtb-0a1 has no route for it".to_owned();
        explanation.missing = vec![Note { what, hint: Some("add to the policy".to_owned()) }];
        let text = text(&explanation);
        assert!(text.contains("  rtb-0a1    no route\n"), "{text}");
        assert!(
            text.ends_with("missing: rtb-0a1 has no route for it\n   hint: add to the policy\n"),
            "{text}"
        );
    }
}
