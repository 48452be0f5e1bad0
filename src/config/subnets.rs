//! The tables of `[[ipam.subnet]]`: parts of the range that are kept apart, and who reaches whom.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{
    reader::{Entry, Found, Reader},
    schema::{SUBNET_KEYS, did_you_mean, nearest},
    value::{self, Wrong},
};
use crate::{
    addr::Range,
    state::{Isolation, REST, Subnet},
};

/// Subnets of a cluster, at most: each is a chain of rules.
const SUBNETS_MAX: usize = 64;

const KEY: &str = "ipam.subnet";
const NAME: &str = "ipam.subnet.name";
const CIDR: &str = "ipam.subnet.cidr";
const ALLOW: &str = "ipam.subnet.allow";

/// A table as it stands in the file.
struct Table {
    name: Found<String>,
    /// `None` of the rest, and where it is missing or wrong.
    cidr: Option<Found<Ipv4Net>>,
    allow: Vec<Found<String>>,
}

/// Reads the tables, and holds each to the range, to the others, and to where addresses come from by default.
pub(super) fn isolation(reader: &mut Reader, range: Ipv4Net, default_subnet: Ipv4Net) -> Isolation {
    let entries = reader.tables(KEY, &SUBNET_KEYS);
    if let Some(first_beyond) = entries.get(SUBNETS_MAX) {
        let wrong = Wrong::new(format!("there are {}, more than {SUBNETS_MAX}", entries.len()));
        reader.problem(KEY, first_beyond.place.clone(), wrong);
    }
    let mut tables: Vec<Table> = Vec::new();
    for entry in entries.iter().take(SUBNETS_MAX) {
        let Some(table) = read(reader, entry) else { continue };
        hold_to_range(reader, &table, range, default_subnet);
        hold_to_others(reader, &table, &tables);
        tables.push(table);
    }
    hold_to_names(reader, &tables);
    tables.into_iter().fold(Isolation::default(), add)
}

fn add(mut isolation: Isolation, table: Table) -> Isolation {
    let allow = table.allow.into_iter().map(|found| found.value).collect();
    match table.cidr {
        Some(cidr) => drop(isolation.subnets.insert(table.name.value, Subnet { cidr: cidr.value, allow })),
        None => isolation.rest = allow,
    }
    isolation
}

fn read<'t>(reader: &mut Reader<'t>, entry: &Entry<'t>) -> Option<Table> {
    let name = reader.read_in(entry, NAME, value::subnet_name);
    let cidr = reader.read_in(entry, CIDR, value::subnet);
    let allow = reader.list_in(entry, ALLOW, value::subnet_name);
    if !entry.has(NAME) {
        reader.problem(NAME, entry.place.clone(), Wrong::new("the subnet has no name"));
    }
    let is_rest = name.as_ref().is_some_and(|name| name.value == REST);
    if !is_rest && !entry.has(CIDR) {
        let wrong =
            Wrong::new("the subnet has no addresses").hint("write them as in cidr = \"10.32.0.0/16\"");
        reader.problem(CIDR, entry.place.clone(), wrong);
    }
    Some(Table { name: name?, cidr, allow })
}

fn hold_to_range(reader: &mut Reader, Table { name, cidr, .. }: &Table, range: Ipv4Net, default: Ipv4Net) {
    let (name, Some(cidr)) = (&name.value, cidr) else { return };
    let subnet = cidr.value;
    let wrong = if name == REST {
        Wrong::new(format!("{REST} stands for the addresses outside every subnet"))
            .hint("leave cidr out, or choose another name")
    } else if !range.contains(&subnet) {
        Wrong::new(format!("{subnet} is not inside ipam.range {range}"))
    } else if default.contains(&subnet) && default != subnet {
        Wrong::new(format!("{subnet} is a part of ipam.default_subnet {default}: a container that is attached without --subnet could get an address of {name}"))
            .hint("set ipam.default_subnet to one of the subnets, or outside all of them")
    } else {
        return;
    };
    reader.problem(CIDR, cidr.place.clone(), wrong);
}

fn hold_to_others(reader: &mut Reader, table: &Table, earlier: &[Table]) {
    if earlier.iter().any(|other| other.name.value == table.name.value) {
        let wrong = Wrong::new(format!("there is a subnet {} already", table.name.value));
        reader.problem(NAME, table.name.place.clone(), wrong);
    }
    let Some(cidr) = &table.cidr else { return };
    let overlaps = |other: &&Table| {
        other.cidr.as_ref().is_some_and(|other| Range::from(other.value).overlaps(cidr.value.into()))
    };
    for other in earlier.iter().filter(overlaps) {
        let theirs = other.cidr.as_ref().map(|cidr| cidr.value.to_string()).unwrap_or_default();
        let wrong = Wrong::new(format!("{} overlaps {theirs} of {}", cidr.value, other.name.value));
        reader.problem(CIDR, cidr.place.clone(), wrong);
    }
}

fn hold_to_names(reader: &mut Reader, tables: &[Table]) {
    let names = tables.iter().map(|table| table.name.value.as_str()).chain([REST]);
    let names: Vec<&str> = names.collect::<BTreeSet<_>>().into_iter().collect();
    for allowed in tables.iter().flat_map(|table| &table.allow) {
        if !names.contains(&allowed.value.as_str()) {
            let near = nearest(&allowed.value, names.iter().copied());
            let wrong = Wrong::new(format!("there is no subnet {}", allowed.value));
            let hint = near.map_or_else(|| format!("known are {}", names.join(", ")), did_you_mean);
            reader.problem(ALLOW, allowed.place.clone(), wrong.hint(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    const TWO: &str = r#"
        [ipam]
        default_subnet = "10.40.0.0/13"

        [[ipam.subnet]]
        name = "web"
        cidr = "10.32.0.0/16"
        allow = ["db", "rest"]

        [[ipam.subnet]]
        name = "db"
        cidr = "10.33.0.0/16"

        [[ipam.subnet]]
        name = "rest"
        allow = ["web"]
    "#;

    #[test]
    fn subnets_are_read_with_whom_they_reach() {
        let isolation = parse(TWO).unwrap().ipam.isolation;
        let reaching =
            |name| isolation.reaching(name).map(|subnet| subnet.cidr.to_string()).collect::<Vec<_>>();
        assert_eq!(reaching("web"), ["10.32.0.0/16"]);
        assert_eq!(reaching("db"), ["10.33.0.0/16", "10.32.0.0/16"]);
        assert_eq!(reaching("rest"), ["10.32.0.0/16"]);
        assert_eq!(["web", "db", "rest"].map(|name| isolation.is_open(name)), [true, false, true]);
    }

    #[test]
    fn every_problem_with_subnets_is_reported_at_once() {
        let text = r#"
ipam.subnet = [
  { name = "web", cidr = "10.32.0.0/16", allow = ["bd", 7] },
  { name = "web", cidr = "10.32.128.0/17" },
  { name = "DB", cidr = "10.33.0.0/16", alow = [] },
  { name = "out", cidr = "10.64.0.0/16" },
  { name = "bits", cidr = "10.34.0.1/16" },
  { name = "none" },
  { name = "rest", cidr = "10.47.0.0/16", allow = "web" },
  { cidr = "10.46.0.0/16" },
  3,
]
"#;
        insta::assert_snapshot!(parse(text).unwrap_err().to_string(), @r#"
        weave.toml:3:26: ipam.subnet.cidr: 10.32.0.0/16 is a part of ipam.default_subnet 10.32.0.0/12: a container that is attached without --subnet could get an address of web (set ipam.default_subnet to one of the subnets, or outside all of them)
        weave.toml:3:51: ipam.subnet.allow: there is no subnet bd (known are bits, none, out, rest, web)
        weave.toml:3:57: ipam.subnet.allow: expected a string, found an integer
        weave.toml:4:12: ipam.subnet.name: there is a subnet web already
        weave.toml:4:26: ipam.subnet.cidr: 10.32.128.0/17 is a part of ipam.default_subnet 10.32.0.0/12: a container that is attached without --subnet could get an address of web (set ipam.default_subnet to one of the subnets, or outside all of them)
        weave.toml:4:26: ipam.subnet.cidr: 10.32.128.0/17 overlaps 10.32.0.0/16 of web
        weave.toml:5:12: ipam.subnet.name: "DB" is not the name of a subnet (take up to 32 of a-z, 0-9, - and _, beginning with a letter)
        weave.toml:5:41: ipam.subnet.alow: unknown key (did you mean "allow"?)
        weave.toml:6:26: ipam.subnet.cidr: 10.64.0.0/16 is not inside ipam.range 10.32.0.0/12
        weave.toml:7:27: ipam.subnet.cidr: 10.34.0.1/16 has bits set behind its prefix (did you mean "10.34.0.0/16"?)
        weave.toml:8:3: ipam.subnet.cidr: the subnet has no addresses (write them as in cidr = "10.32.0.0/16")
        weave.toml:9:27: ipam.subnet.cidr: rest stands for the addresses outside every subnet (leave cidr out, or choose another name)
        weave.toml:9:51: ipam.subnet.allow: expected a list of strings, found a string
        weave.toml:10:3: ipam.subnet.name: the subnet has no name
        weave.toml:11:3: ipam.subnet: expected a table, found an integer
        "#);
    }

    #[test]
    fn subnets_that_are_no_list_are_a_problem() {
        let lines = parse("ipam.subnet = 'web'").unwrap_err().to_string();
        assert_eq!(lines, "weave.toml:1:15: ipam.subnet: expected a list of tables, found a string");
    }
}
