//! The configuration of ntpd-rs, as ntp.toml(5) describes it.

use serde::Deserialize;

use crate::server_line::{BadServer, Server};
use crate::sources::Directive;

/// Other keys of the file are not ours to judge.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    source: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    mode: String,
    address: Option<String>,
    count: Option<usize>,
}

/// Reads the sources that are time servers, in their order. Those with NTS are asked without it.
pub(crate) fn directives(text: &str) -> Vec<Directive> {
    let file: File = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => return vec![Directive::Bad(BadServer::new(error.message()))],
    };
    file.source.into_iter().filter_map(directive).collect()
}

fn directive(entry: Entry) -> Option<Directive> {
    let is_pool = match entry.mode.as_str() {
        "server" | "nts" => false,
        "pool" | "nts-pool" => true,
        // Sockets and pulses of clocks at this host.
        _ => return None,
    };
    let address = entry.address.unwrap_or_default();
    let Some(mut server) = Server::from_host(&address) else {
        return Some(Directive::Bad(BadServer::new(&format!("address = {address:?}"))));
    };
    server.is_pool = is_pool;
    // The port of a key exchange is no port of NTP.
    if entry.mode.starts_with("nts") {
        server.port = None;
    }
    if let Some(count) = entry.count {
        server.options.votes = count;
    }
    Some(Directive::Server(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_pools_are_read_and_clocks_of_the_host_are_not() {
        let text = "[observability]\nlog-level = \"info\"\n\n\
                    [[source]]\nmode = \"pool\"\naddress = \"ntpd-rs.pool.ntp.org\"\ncount = 2\n\n\
                    [[source]]\nmode = \"server\"\naddress = \"192.0.2.1:1123\"\n\n\
                    [[source]]\nmode = \"nts\"\naddress = \"nts.example.org:4460\"\n\n\
                    [[source]]\nmode = \"sock\"\npath = \"/run/clock\"\nprecision = 0.1\n\n\
                    [[source]]\nmode = \"server\"\n\n\
                    [synchronization]\nminimum-agreeing-sources = 3\n";

        let read = directives(text);

        let Directive::Server(pool) = &read[0] else { panic!("{read:?}") };
        assert_eq!((pool.host.as_str(), pool.is_pool, pool.options.votes), ("ntpd-rs.pool.ntp.org", true, 2));
        let Directive::Server(server) = &read[1] else { panic!("{read:?}") };
        assert_eq!((server.host.as_str(), server.port), ("192.0.2.1", Some(1123)));
        let Directive::Server(nts) = &read[2] else { panic!("{read:?}") };
        assert_eq!((nts.host.as_str(), nts.port), ("nts.example.org", None));
        assert!(matches!(&read[3], Directive::Bad(_)));
        assert_eq!(read.len(), 4);
    }

    #[test]
    fn what_is_no_toml_is_said() {
        assert!(matches!(directives("[[source").as_slice(), [Directive::Bad(_)]));
        assert!(directives("").is_empty());
    }
}
