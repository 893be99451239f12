//! Finds the address of a client behind proxies, and what counts as one source.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A range of addresses, written `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The header in which proxies say whom they speak for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: addresses, comma-separated, the nearest last.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239): elements with `for=`, the nearest last.
    Forwarded,
}

impl ForwardedHeader {
    /// The header's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Why a text is no network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no network such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError(String);

impl Network {
    /// Whether that address is in it. An IPv4 address counts the same when it is written in IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_not_one| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_not_one| wrong())?,
            None => longest,
        };
        if prefix > longest || address != address.to_canonical() {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The client's address: the rightmost hop that is no trusted proxy. What stands to the left of it
/// anybody could have written. A hop that cannot be read ends the search at the proxy that told it.
pub(crate) fn client<'a>(
    peer: IpAddr,
    lines: impl DoubleEndedIterator<Item = &'a str>,
    header: ForwardedHeader,
    trusted: &[Network],
) -> IpAddr {
    let is_proxy = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    for line in lines.rev() {
        // Commas inside quotes are no part of any address: what they tear apart cannot be read.
        for hop in line.rsplit(',') {
            if !is_proxy(client) {
                return client;
            }
            let told = match header {
                ForwardedHeader::XForwardedFor => bare(hop.trim()),
                ForwardedHeader::Forwarded => element(hop),
            };
            match told {
                Some(address) => client = address.to_canonical(),
                None => return client,
            }
        }
    }
    client
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn bare(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return is_port(port).then_some(address.into());
    }
    let (address, port) = text.split_at_checked(text.find(':')?)?;
    let address: Ipv4Addr = address.parse().ok()?;
    is_port(port).then_some(address.into())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok())
}

/// The `for` of one element of `Forwarded`, such as `for="[2001:db8::1]:80";proto=https`.
fn element(text: &str) -> Option<IpAddr> {
    let mut told = text.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("for")
            .then(|| value.trim())
    });
    let value = told.next()?;
    if told.next().is_some() {
        return None;
    }
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    bare(value)
}

/// What counts as one source of connections: an IPv4 address, or the /64 of an IPv6 address, which
/// is what one customer is given at least.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        for (network, address, holds) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(
                parsed.contains(ip(address)),
                holds,
                "{address} in {network}"
            );
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::1/129",
            "10.0.0.0/",
            "*",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_client_is_the_rightmost_hop_that_is_no_trusted_proxy() {
        let trusted = networks(&["10.0.0.0/8", "fd00::/8"]);
        for (peer, lines, meant) in [
            // Nobody is asked who is no proxy.
            ("203.0.113.9", &["192.0.2.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            // What the client wrote stands to the left.
            ("10.0.0.1", &["1.1.1.1, 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &["1.1.1.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["1.1.1.1", "192.0.2.1,10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &["10.9.9.9, 10.0.0.2"], "10.9.9.9"),
            ("10.0.0.1", &["192.0.2.1:4711"], "192.0.2.1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]:443"], "2001:db8::1"),
            // A hop that cannot be read: the proxy that told it.
            ("10.0.0.1", &["192.0.2.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.1, junk, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["192.0.2.1,"], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.1:99999"], "10.0.0.1"),
        ] {
            let found = client(
                ip(peer),
                lines.iter().copied(),
                ForwardedHeader::XForwardedFor,
                &trusted,
            );
            assert_eq!(found, ip(meant), "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_says_the_same_in_its_own_way() {
        let trusted = networks(&["10.0.0.0/8"]);
        for (line, meant) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:80\";proto=https;by=10.0.0.1", "192.0.2.1"),
            (
                "for=1.1.1.1, for=192.0.2.1;proto=http, for=10.0.0.2",
                "192.0.2.1",
            ),
            ("for=\"[2001:db8::1]:80\"", "2001:db8::1"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            ("for=192.0.2.1;for=1.1.1.1", "10.0.0.1"),
            ("for=\"192.0.2.1", "10.0.0.1"),
        ] {
            let found = client(
                ip("10.0.0.1"),
                [line].into_iter(),
                ForwardedHeader::Forwarded,
                &trusted,
            );
            assert_eq!(found, ip(meant), "{line}");
        }
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        assert_eq!(source(ip("192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(source(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(source(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_ne!(source(ip("2001:db8:1:2::1")), source(ip("2001:db8:1:3::1")));
    }

    proptest! {
        /// Whatever a client writes into the header, its proxy's own word is what counts.
        #[test]
        fn no_client_can_pass_for_another(written in "[ -~]{0,60}", forwarded in any::<bool>()) {
            let trusted = networks(&["10.0.0.0/8"]);
            let (header, line) = if forwarded {
                (ForwardedHeader::Forwarded, format!("{written}, for=192.0.2.1"))
            } else {
                (ForwardedHeader::XForwardedFor, format!("{written}, 192.0.2.1"))
            };
            let lines = [written.as_str(), line.as_str()];
            let found = client(ip("10.0.0.1"), lines.into_iter(), header, &trusted);
            prop_assert_eq!(found, ip("192.0.2.1"));
        }

        #[test]
        fn a_network_is_read_as_it_is_written(bits in any::<u128>(), prefix in 0_u8..=128) {
            let network = Network { address: Ipv6Addr::from_bits(bits).into(), prefix };
            if network.address == network.address.to_canonical() {
                prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
                prop_assert!(network.contains(network.address));
            }
        }
    }
}
