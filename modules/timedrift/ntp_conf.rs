//! The configuration of ntpd and NTPsec, as ntp.conf(5) describes it.

use crate::server_line::Server;
use crate::sources::Directive;

/// What the addresses of ntpd's hardware clocks begin with; no packet ever goes there.
const REFERENCE_CLOCKS: &str = "127.127.";

/// Reads the lines that lead to time servers, in their order.
pub(crate) fn directives(text: &str) -> Vec<Directive> {
    text.lines().filter_map(|line| directive(line.split('#').next().unwrap_or_default())).collect()
}

fn directive(line: &str) -> Option<Directive> {
    match Server::from_words(line) {
        Some(Ok(server)) if server.host.starts_with(REFERENCE_CLOCKS) => None,
        Some(Ok(server)) => Some(Directive::Server(server)),
        Some(Err(error)) => Some(Directive::Bad(error)),
        None => {
            let mut words = line.split_whitespace();
            match words.next()?.to_ascii_lowercase().as_str() {
                "includefile" => Some(Directive::IncludeTree(words.next()?.trim_matches('"').to_owned())),
                "tos" => max_distance(words),
                _ => None,
            }
        }
    }
}

/// `tos maxdist SECONDS`, among other options.
fn max_distance<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Directive> {
    words.by_ref().find(|word| word.eq_ignore_ascii_case("maxdist"))?;
    Directive::max_distance(words.next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host of Debian 11 had, with what is found in the field added.
    const SAMPLE: &str = "\
# /etc/ntp.conf, configuration for ntpd; see ntp.conf(5) for help
driftfile /var/lib/ntp/ntp.drift
leapfile /usr/share/zoneinfo/leap-seconds.list
statistics loopstats peerstats clockstats
filegen loopstats file loopstats type day enable

# pool.ntp.org maps to about 1000 low-stratum NTP servers.
#server ntp.your-provider.example
pool 0.debian.pool.ntp.org iburst
pool 1.debian.pool.ntp.org iburst
server -4 ntp4.example.org  # the rack's
server 2001:db8::123 prefer
server [2001:db8::124]
server ntp.example.org:1123
peer ntp-b.example.org
server 127.127.1.0
fudge  127.127.1.0 stratum 10
server
restrict -4 default kod notrap nomodify nopeer noquery limited
restrict 127.0.0.1
includefile /etc/ntp/extra.conf
";

    #[test]
    fn a_real_file_gives_its_servers_in_order() {
        let mut hosts = Vec::new();
        let mut bad = 0;
        let mut included = Vec::new();
        for directive in directives(SAMPLE) {
            match directive {
                Directive::Server(server) => hosts.push((server.host, server.port)),
                Directive::Bad(_) => bad += 1,
                Directive::IncludeTree(path) => included.push(path),
                other => panic!("{other:?}"),
            }
        }

        let expected = [
            ("0.debian.pool.ntp.org", None),
            ("1.debian.pool.ntp.org", None),
            ("ntp4.example.org", None),
            ("2001:db8::123", None),
            ("2001:db8::124", None),
            ("ntp.example.org", Some(1123)),
            ("ntp-b.example.org", None),
        ];
        assert_eq!(hosts, expected.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!((bad, included), (1, vec!["/etc/ntp/extra.conf".to_owned()]));
    }
}
