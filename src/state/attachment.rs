//! What an attachment is known by, and how the container's end of its link is to be.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::addr::Address;

/// MAC address of every host end. A container sees this one only.
pub const HOST_MAC: Mac = Mac([0x02, 0x67, 0xa9, 0xfe, 0x01, 0x01]);

/// A MAC address of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// That of a container, unless another is asked for.
    pub fn of(address: Address) -> Mac {
        let [a, b, c, d] = address.0.to_be_bytes();
        Mac([0x02, 0x67, a, b, c, d])
    }
}

/// Why something is no MAC address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not the MAC address of one interface, such as 02:67:0a:20:01:02")]
pub struct NotAMac(String);

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Mac, NotAMac> {
        let wrong = || NotAMac(crate::text::short(text, 40));
        let byte = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or_else(wrong)
        };
        let bytes = text.split([':', '-']).map(byte).collect::<Result<Vec<u8>, NotAMac>>()?;
        let mac: [u8; 6] = bytes.try_into().map_err(|_| wrong())?;
        let of_many = mac[0] & 1 == 1;
        if of_many || mac == [0; 6] { Err(wrong()) } else { Ok(Mac(mac)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = NotAMac;

    fn try_from(text: String) -> Result<Mac, NotAMac> {
        text.parse()
    }
}

/// The container's end of a link, as it is made. What becomes of it then is its user's business.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Far {
    /// Its name.
    pub name: String,
    /// Its MAC address, unless it follows from the address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// It is made on the host; a runtime moves it into the container, names it there, and has it to itself from then on.
    #[serde(default)]
    pub moved: bool,
}

impl Far {
    /// Its name where nobody chooses another.
    pub const NAME: &str = "ethwe";

    /// That of the link of this address which a runtime moves, as long as it is on the host: `wp` and the address in hexadecimal.
    pub fn to_be_moved(address: Address, mac: Option<Mac>) -> Far {
        Far { name: format!("wp{:08x}", address.0), mac, moved: true }
    }

    /// Its MAC address.
    pub fn mac(&self, address: Address) -> Mac {
        self.mac.unwrap_or(Mac::of(address))
    }
}

impl Default for Far {
    fn default() -> Far {
        Far { name: Far::NAME.to_owned(), mac: None, moved: false }
    }
}

/// What a runtime knows an attachment by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// How the runtime speaks to us.
    pub kind: Kind,
    /// Its name of the network.
    pub network: String,
    /// Its id of the container.
    pub id: String,
    /// The interface in the container.
    pub interface: String,
}

/// How a runtime speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By the container network interface.
    Cni,
    /// By the plugins of Docker's networks.
    Docker,
    /// By the plugins of netavark, which Podman uses.
    Podman,
    /// By another plugin, which makes the interface and asks for its address only.
    Ipam,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Cni => f.write_str("cni"),
            Kind::Docker => f.write_str("docker"),
            Kind::Podman => f.write_str("podman"),
            Kind::Ipam => f.write_str("ipam"),
        }
    }
}

/// Why something is no key: the part, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{part} `{text}` will not do: {rule}")]
#[allow(missing_docs)] // The message says what they are.
pub struct NotAKey {
    pub part: &'static str,
    pub text: String,
    pub rule: &'static str,
}

impl Key {
    /// The name that its address is filed under: another key, another name.
    pub fn ident(&self) -> String {
        format!("{}/{}/{}/{}", self.kind, self.network, self.id, self.interface)
    }

    /// What each part may be, as the specification of CNI has it.
    pub fn check(&self) -> Result<(), NotAKey> {
        const LENGTH_MAX: usize = 256;
        let wrong = |part, text: &str, rule| NotAKey { part, text: crate::text::short(text, 40), rule };
        let plain = |text: &str| {
            let rest = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
            first && text.len() <= LENGTH_MAX && text.chars().all(rest)
        };
        let rule = "a letter or digit, then letters, digits, `_`, `.` and `-`";
        for (part, text) in [("network", &self.network), ("container id", &self.id)] {
            if !plain(text) {
                return Err(wrong(part, text, rule));
            }
        }
        if !is_interface_name(&self.interface) {
            return Err(wrong("interface", &self.interface, "1 to 15 characters, no `/`, `:` or space"));
        }
        Ok(())
    }
}

/// Whether the kernel takes `name` as that of an interface, and nft as a name and nothing more: no wildcard, no quote.
pub fn is_interface_name(name: &str) -> bool {
    const LENGTH_MAX: usize = 15;
    let plain = |c: char| c.is_ascii_graphic() && !"\"'\\/:*{};,".contains(c);
    // The last two stand for all interfaces in /proc/sys/net.
    let taken = [".", "..", "all", "default"].contains(&name);
    (1..=LENGTH_MAX).contains(&name.len()) && name.chars().all(plain) && !taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_that_of_one_interface() {
        let mac: Mac = "02:67:0A:20:01:02".parse().unwrap();
        assert_eq!(mac, Mac::of("10.32.1.2".parse().unwrap()));
        assert_eq!(mac.to_string(), "02:67:0a:20:01:02");
        for wrong in [
            "",
            "02:67:0a:20:01",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "2:67:0a:20:01:02",
            "+2:67:0a:20:01:02",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_that_differ_are_filed_under_names_that_differ() {
        let key = |network: &str, id: &str, interface: &str| Key {
            kind: Kind::Cni,
            network: network.to_owned(),
            id: id.to_owned(),
            interface: interface.to_owned(),
        };
        assert_eq!(key("weavers", "a1", "eth0").ident(), "cni/weavers/a1/eth0");
        assert_eq!(key("weavers", "a1", "eth0").check(), Ok(()));
        for (network, id, interface) in [
            ("", "a", "eth0"),
            ("w", "", "eth0"),
            ("w", "a/b", "eth0"),
            ("w/a", "b", "eth0"),
            ("w", "a", "e/0"),
            ("w", "a", ""),
        ] {
            assert!(key(network, id, interface).check().is_err(), "{network} {id} {interface}");
        }
    }
}
