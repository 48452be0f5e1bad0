//! The proxy by which calls of EC2 leave, as the environment names it: to be named where a call fails.

/// The variables that name a proxy, in the order in which they count for an endpoint of HTTPS.
const VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];

/// A proxy, as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    variable: &'static str,
    address: String,
}

impl Proxy {
    /// The proxy of this process, if there is one.
    pub(super) fn of_environment() -> Option<Proxy> {
        Proxy::among(|variable| std::env::var(variable).ok())
    }

    fn among(value: impl Fn(&str) -> Option<String>) -> Option<Proxy> {
        VARIABLES.iter().find_map(|variable| {
            let address = value(variable).filter(|address| !address.trim().is_empty())?;
            Some(Proxy { variable, address: without_password(address.trim()) })
        })
    }

    /// Where the call went.
    pub(super) fn way(&self) -> String {
        format!("through the proxy {} ({})", self.address, self.variable)
    }

    /// What to do about it.
    pub(super) fn way_out(&self) -> String {
        format!(
            "check that the proxy lets the daemon through to the EC2 endpoint, or remove {} from the daemon's environment, \
             or name the endpoint in NO_PROXY",
            self.variable
        )
    }
}

/// Who may use the proxy is nobody's business.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_without_its_password() {
        let among = |set: &'static [(&str, &str)]| {
            Proxy::among(|variable| {
                set.iter().find(|(name, _)| *name == variable).map(|(_, value)| (*value).to_owned())
            })
        };
        let way = |set| among(set).map(|proxy: Proxy| proxy.way());
        assert_eq!(way(&[]), None);
        assert_eq!(way(&[("http_proxy", " ")]), None);
        assert_eq!(
            way(&[("HTTP_PROXY", "http://a:3128"), ("HTTPS_PROXY", "http://me:secret@b:3128")]).unwrap(),
            "through the proxy http://b:3128 (HTTPS_PROXY)"
        );
        assert_eq!(way(&[("all_proxy", "c:3128")]).unwrap(), "through the proxy c:3128 (all_proxy)");
    }
}
