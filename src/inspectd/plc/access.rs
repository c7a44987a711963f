//! Which Modbus clients a listener lets in, and what they may do.
//!
//! Modbus has no password: a client is known by its address alone. So a listener lets in those on its list, and
//! where there is none, programs on this machine. Where several entries hold an address, the narrowest counts: a
//! whole network may read, and the PLC in it write.
//!
//! A client that may only read is a panel or a control room: its writes are refused, and what it reads counts as
//! read by nobody, so that it cannot hide a result that the PLC has not read.
//!
//! Never here: sockets, what a request means.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

/// Most entries of a list.
pub const MAX_ENTRIES: usize = 256;
/// How often it is told that an address is not let in, at most.
pub const TELL_EVERY: Duration = Duration::from_secs(60);
/// Most addresses that are told apart for that; of more only the count is kept.
const MAX_TOLD: usize = 256;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum May {
    /// Read every table; each write is answered with exception 1.
    Read,
    /// Trigger, acknowledge, and all else that a PLC does.
    Write,
}

/// A client, or a network of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// An address, or a network as address/bits.
    #[serde(deserialize_with = "address")]
    pub address: IpNet,
    /// What it may do.
    pub may: May,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    let network =
        text.parse::<IpNet>().or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
    network.map_err(|_| {
        let expected = "expected an address such as 192.0.2.10, or a network such as 192.0.2.0/24";
        serde::de::Error::custom(format!("{expected}, got `{text}`"))
    })
}

/// The list of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(Vec<ClientConfig>);

impl AllowList {
    /// A list. An empty one lets in programs on this machine, which may write.
    pub fn new(clients: &[ClientConfig]) -> Self {
        Self(clients.to_vec())
    }

    /// What a client of this address may do; None: it is not let in.
    pub fn may(&self, address: IpAddr) -> Option<May> {
        let address = address.to_canonical(); // a listener at [::] sees 192.0.2.10 as ::ffff:192.0.2.10
        if self.0.is_empty() {
            return address.is_loopback().then_some(May::Write);
        }
        let holding = self.0.iter().filter(|client| client.address.contains(&address));
        holding.max_by_key(|client| client.address.prefix_len()).map(|client| client.may)
    }
}

/// What is wrong with a list for a listener at `listen`; `writer` where the PLC has to write.
pub fn check(clients: &[ClientConfig], listen: IpAddr, writer: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if clients.is_empty() && !listen.to_canonical().is_loopback() {
        problems.push(format!(
            "clients: expected who may come, since {listen} is reached from outside this machine and Modbus asks for no password; such as clients = [{{ address = \"192.0.2.10\", may = \"write\" }}] for the PLC"
        ));
    }
    if clients.len() > MAX_ENTRIES {
        problems.push(format!("clients: expected at most {MAX_ENTRIES}, got {}", clients.len()));
    }
    let mut known = HashSet::new();
    for client in clients {
        if !known.insert(client.address.trunc()) {
            problems.push(format!("clients: expected each address once, {} is there twice", client.address));
        }
    }
    if writer && !clients.is_empty() && clients.iter().all(|client| client.may == May::Read) {
        problems.push(
            "clients: expected one with may = \"write\": nobody could trigger a part, since the PLC triggers by writing"
                .to_owned(),
        );
    }
    problems
}

/// What is not wrong with a list and should be known all the same.
pub fn note(clients: &[ClientConfig]) -> Option<String> {
    let open = clients.iter().find(|c| c.may == May::Write && c.address.prefix_len() == 0)?;
    Some(format!("clients: {} lets everyone write who reaches the port; name the PLC alone", open.address))
}

/// Who was not let in, and when that was told last.
#[derive(Default)]
pub(super) struct Refused {
    told: HashMap<IpAddr, Instant>,
}

impl Refused {
    /// Whether it is time to tell of this address.
    pub fn is_news(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.told.len() >= MAX_TOLD {
            self.told.retain(|_, told| now.duration_since(*told) < TELL_EVERY);
        }
        let news = match self.told.get(&address) {
            Some(told) => now.duration_since(*told) >= TELL_EVERY,
            None => self.told.len() < MAX_TOLD,
        };
        if news {
            self.told.insert(address, now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, &str)]) -> Vec<ClientConfig> {
        let entry = |(address, may): &(&str, &str)| {
            toml::from_str(&format!("address = '{address}'\nmay = '{may}'")).unwrap()
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn the_narrowest_entry_counts_whatever_the_order() {
        let entries = [("192.0.2.0/24", "read"), ("192.0.2.10", "write"), ("2001:db8::/32", "read")];
        let mut clients = list(&entries);
        for _ in 0..2 {
            let allowed = AllowList::new(&clients);
            let may = |address: &str| allowed.may(address.parse().unwrap());
            assert_eq!(may("192.0.2.10"), Some(May::Write));
            assert_eq!(may("::ffff:192.0.2.10"), Some(May::Write), "as a listener at [::] sees it");
            assert_eq!(may("192.0.2.11"), Some(May::Read));
            assert_eq!(may("2001:db8::7"), Some(May::Read));
            for stranger in ["192.0.3.10", "127.0.0.1", "::1", "2001:db9::7"] {
                assert_eq!(may(stranger), None, "{stranger} is not on the list");
            }
            clients.reverse();
        }
    }

    #[test]
    fn without_a_list_only_this_machine_is_let_in() {
        let may = |address: &str| AllowList::default().may(address.parse().unwrap());
        assert_eq!((may("127.0.0.1"), may("::1")), (Some(May::Write), Some(May::Write)));
        assert_eq!((may("192.0.2.10"), may("::ffff:192.0.2.10")), (None, None));
    }

    #[test]
    fn what_leaves_a_listener_open_or_a_plc_out_is_found() {
        let check = |entries: &[(&str, &str)], listen: &str| {
            super::check(&list(entries), listen.parse().unwrap(), true).join("\n")
        };
        for listen in ["192.0.2.1", "0.0.0.0", "::"] {
            assert!(check(&[], listen).contains("Modbus asks for no password"), "{listen}");
            assert_eq!(check(&[("192.0.2.10", "write")], listen), "");
        }
        assert_eq!(check(&[], "127.0.0.1") + &check(&[], "::1"), "");
        assert!(check(&[("192.0.2.0/24", "read")], "192.0.2.1").contains("nobody could trigger"));
        let twice = [("192.0.2.10", "write"), ("192.0.2.10/32", "read")];
        assert!(check(&twice, "127.0.0.1").contains("twice"));
        assert!(note(&list(&[("0.0.0.0/0", "write")])).is_some() && note(&list(&twice)).is_none());
        assert!(toml::from_str::<ClientConfig>("address = 'plc'\nmay = 'write'").is_err());
    }

    #[test]
    fn a_stranger_is_told_once_a_minute_and_a_thousand_fill_no_memory() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        let stranger: IpAddr = "192.0.2.66".parse().unwrap();
        assert!(refused.is_news(stranger, now) && !refused.is_news(stranger, now));
        let told = (0..1000_u32).filter(|n| refused.is_news(IpAddr::from(n.to_be_bytes()), now)).count();
        assert_eq!((told, refused.told.len()), (MAX_TOLD - 1, MAX_TOLD));
        let later = now + TELL_EVERY;
        assert!(refused.is_news(stranger, later) && refused.told.len() == 1, "what is old makes room");
    }
}
