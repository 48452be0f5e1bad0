//! What a listing of nft says, whoever printed it: names or numbers, lines broken here or there, in any order that
//! says nothing.
//!
//! nft prints names where it finds them (`tcp` needs `/etc/protocols`), members of a set in the order of the
//! kernel's hash, and chains in the order in which they were made. The order of rules is kept: it decides.

use std::{collections::BTreeSet, iter::Peekable, vec};

/// What stands for a number in our table, and what nft prints instead with `-n`, or where it knows no names.
const NUMBERS: [(&str, &str); 27] = [
    // Protocols.
    ("icmp", "1"),
    ("igmp", "2"),
    ("tcp", "6"),
    ("udp", "17"),
    ("icmpv6", "58"),
    ("ipv6-icmp", "58"),
    ("sctp", "132"),
    // Priorities of chains.
    ("raw", "-300"),
    ("mangle", "-150"),
    ("dstnat", "-100"),
    ("filter", "0"),
    ("security", "50"),
    ("srcnat", "100"),
    // States of connections.
    ("invalid", "0x1"),
    ("established", "0x2"),
    ("related", "0x4"),
    ("new", "0x8"),
    ("untracked", "0x40"),
    // Flags of TCP.
    ("rst", "0x4"),
    // Kinds of addresses, for fib.
    ("unicast", "1"),
    ("local", "2"),
    ("broadcast", "3"),
    ("multicast", "5"),
    // Kinds of ICMPv6 messages.
    ("nd-router-solicit", "133"),
    ("nd-router-advert", "134"),
    ("nd-neighbor-solicit", "135"),
    ("nd-neighbor-advert", "136"),
];

/// Whether two listings of a table say the same.
pub fn same(one: &str, other: &str) -> bool {
    table(one) == table(other)
}

/// The members of a map in the listing of a table, with numbers for names; none where there is no such map.
pub fn members(listing: &str, map: &str) -> Vec<String> {
    let blocks = table(listing);
    let block = blocks.iter().find(|block| block.head == ["map", map]);
    let elements = block.and_then(|block| block.statements.iter().find(|words| words[0] == "elements"));
    let members =
        elements.and_then(|words| words.last()).map_or("", |words| words.trim_matches(['{', '}', ' ']));
    members.split(", ").filter(|member| !member.is_empty()).map(str::to_owned).collect()
}

/// A chain or a set, or a line that is about the whole table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    head: Vec<String>,
    statements: Vec<Vec<String>>,
}

fn table(listing: &str) -> BTreeSet<Block> {
    let mut tokens = tokens(listing).into_iter().peekable();
    let mut blocks = BTreeSet::new();
    let mut head = Vec::new();
    while let Some(token) = tokens.next() {
        let statements = match token {
            Token::Word(word) => {
                head.push(word);
                continue;
            }
            Token::Comma => continue,
            Token::Open if head.first().is_some_and(|word| word == "table") => Vec::new(),
            Token::Open => statements(&mut tokens),
            Token::End | Token::Close => Vec::new(),
        };
        if !head.is_empty() {
            blocks.insert(Block { head: std::mem::take(&mut head), statements });
        }
    }
    blocks
}

/// The statements of a block, up to its end and without those that are empty.
fn statements(tokens: &mut Peekable<vec::IntoIter<Token>>) -> Vec<Vec<String>> {
    let mut statements = vec![Vec::new()];
    while let Some(token) = tokens.next() {
        let Some(statement) = statements.last_mut() else { break };
        match token {
            Token::Word(word) => statement.push(listed(word, tokens)),
            Token::Open => statement.push(set(tokens)),
            Token::Comma => {}
            Token::End => statements.push(Vec::new()),
            Token::Close => break,
        }
    }
    statements.retain(|statement| !statement.is_empty());
    statements.into_iter().map(with_one_priority).collect()
}

/// `related,established` says what `established,related` says.
fn listed(first: String, tokens: &mut Peekable<vec::IntoIter<Token>>) -> String {
    let mut words = BTreeSet::from([first]);
    while tokens.next_if_eq(&Token::Comma).is_some() {
        if let Some(Token::Word(word)) = tokens.next_if(|token| matches!(token, Token::Word(_))) {
            words.insert(word);
        }
    }
    words.into_iter().collect::<Vec<_>>().join(",")
}

/// The members of a set, up to its end.
fn set(tokens: &mut Peekable<vec::IntoIter<Token>>) -> String {
    let (mut members, mut member) = (BTreeSet::new(), Vec::new());
    for token in tokens {
        match token {
            Token::Word(word) => member.push(word),
            Token::Comma => drop(members.insert(std::mem::take(&mut member).join(" "))),
            Token::Close => break,
            // Nowhere in our table is a set within a set.
            Token::Open | Token::End => {}
        }
    }
    members.insert(member.join(" "));
    format!("{{ {} }}", members.into_iter().collect::<Vec<_>>().join(", "))
}

/// `priority filter + 10` is `priority 10`.
fn with_one_priority(mut statement: Vec<String>) -> Vec<String> {
    if let Some(at) = statement.iter().position(|word| word == "priority") {
        let sum = statement[at + 1..].concat();
        let numbers = sum.replace('+', " ").replace('-', " -");
        let number: Result<i32, _> = numbers.split_whitespace().map(str::parse::<i32>).sum();
        if let Ok(number) = number {
            statement.truncate(at + 1);
            statement.push(number.to_string());
        }
    }
    statement
}

// ===== words =====

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A number where it is the name of one; with its quotes where it has some.
    Word(String),
    Open,
    Close,
    Comma,
    /// Of a statement: the end of a line outside of sets, or a semicolon.
    End,
}

fn tokens(listing: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    // Braces that are open: a table, in it a chain or set, in it the members of a set.
    let mut depth = 0_usize;
    let mut rest = listing;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            '{' | '}' | ',' | ';' => 1,
            c if c.is_whitespace() => c.len_utf8(),
            _ => rest.find(|c: char| c.is_whitespace() || "{},;\"".contains(c)).unwrap_or(rest.len()),
        };
        let (word, behind) = rest.split_at(length);
        rest = behind;
        match word {
            "{" => {
                depth += 1;
                tokens.push(Token::Open);
            }
            "}" => {
                depth = depth.saturating_sub(1);
                tokens.push(Token::Close);
            }
            "," => tokens.push(Token::Comma),
            ";" => tokens.push(Token::End),
            "\n" if depth <= 2 => tokens.push(Token::End),
            blank if blank.trim().is_empty() => {}
            word => tokens.push(Token::Word(numbered(word))),
        }
    }
    tokens
}

fn numbered(word: &str) -> String {
    let number = NUMBERS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    number.unwrap_or(word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"table inet weave {
	set uplinks {
		type ifname
		elements = { "ens5", "eth0" }
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname "wv*" meta l4proto { tcp, udp } th dport 6783 counter drop comment "mesh port, {tcp}"
		ct state established,related accept
	}

	map isolation {
		type ipv4_addr : verdict
		flags interval
		elements = { 10.32.0.0/16 : goto to-web, 10.33.0.0/16 : goto to-db }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat + 5; policy accept;
		ip saddr 10.32.0.0/12 ip daddr != 10.32.0.0/12 oifname @uplinks counter masquerade
	}
}
"#;

    /// As nft lists it with `-n`, from a kernel that keeps things in another order.
    const THEIRS: &str = r#"table inet weave {
	map isolation {
		type ipv4_addr : verdict
		flags interval
		elements = { 10.33.0.0/16 : goto to-db,
			     10.32.0.0/16 : goto to-web }
	}
	set uplinks {
		type ifname
		elements = { "eth0",
			     "ens5" }
	}
	chain postrouting {
		type nat hook postrouting priority 105;
		policy accept;
		ip saddr 10.32.0.0/12 ip daddr != 10.32.0.0/12 oifname @uplinks counter masquerade 
	}
	chain input {
		type filter hook input priority 0; policy accept;

		iifname "wv*" meta l4proto { 17, 6 } th dport 6783 counter drop comment "mesh port, {tcp}"
		ct state 0x4,0x2 accept
	}
}"#;

    #[test]
    fn a_host_without_etc_protocols_lists_the_same_table() {
        assert!(same(OURS, &OURS.replace("{ tcp, udp }", "{ 6, 17 }")));
        assert!(same(OURS, THEIRS));
    }

    #[test]
    fn another_rule_is_another_table() {
        for (is, was) in [
            ("{ tcp, udp }", "{ tcp }"),
            ("{ tcp, udp }", "{ 6, 18 }"),
            ("\"wv*\"", "\"wx*\""),
            ("6783", "6784"),
            ("established,related", "established"),
            ("priority filter;", "priority filter + 1;"),
            ("srcnat + 5", "srcnat - 5"),
            ("policy accept", "policy drop"),
            ("\"ens5\", ", ""),
            (" goto to-web", " goto to-db"),
            ("flags interval", "flags timeout"),
            ("mesh port, {tcp}", "mesh port, {6}"),
            ("daddr != 10.32", "daddr 10.32"),
            (" accept\n\t}\n\n\tmap", "\n\t\taccept\n\t}\n\n\tmap"),
            ("\tchain input {\n", "\tflags dormant\n\n\tchain input {\n"),
            ("\tchain input {\n", "\tchain extra {\n\t}\n\n\tchain input {\n"),
            ("chain input {", "chain output {"),
        ] {
            assert!(OURS.contains(is), "{is}");
            assert!(!same(OURS, &OURS.replacen(is, was, 1)), "{is} is {was}");
        }
    }

    #[test]
    fn the_order_of_rules_decides() {
        let [first, second] = ["\t\tip saddr 10.32.0.1 accept\n", "\t\tip saddr 10.32.0.0/12 drop\n"];
        let chain =
            |rules: [&str; 2]| format!("table inet weave {{\n\tchain a {{\n{}\t}}\n}}", rules.concat());
        assert!(!same(&chain([first, second]), &chain([second, first])));
        assert!(!same("", OURS) && same("", "\n"));
    }
}
