//! The configuration of systemd-timesyncd, as timesyncd.conf(5) and systemd.syntax(7) describe it.

use std::path::Path;
use std::time::Duration;

use crate::server_line::Server;
use crate::sources::Source;

/// The servers that timesyncd's files name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// `NTP=`
    pub(crate) ntp: Vec<Source>,
    /// `FallbackNTP=`, asked when there is nothing else.
    pub(crate) fallback: Vec<Source>,
    /// `RootDistanceMaxSec=`
    pub(crate) max_distance: Option<Duration>,
}

impl Servers {
    /// Adds what the file at `path` says. An empty value takes back what earlier lines and files said.
    pub(crate) fn read(&mut self, text: &str, path: &Path) {
        let mut in_section = false;
        for line in logical_lines(text) {
            let line = line.trim();
            if let Some(section) = line.strip_prefix('[') {
                in_section = section == "Time]";
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| in_section) else { continue };
            let list = match key.trim_end() {
                "NTP" => &mut self.ntp,
                "FallbackNTP" => &mut self.fallback,
                "RootDistanceMaxSec" => {
                    self.max_distance = time_span(value.trim()).or(self.max_distance);
                    continue;
                }
                _ => continue,
            };
            if value.trim().is_empty() {
                list.clear();
            }
            let servers = value.split_whitespace().filter_map(Server::from_host);
            list.extend(servers.map(|server| Source::new(server, Some(path.to_owned()))));
        }
    }
}

/// A time as systemd.time(7) writes it, in the units that make sense here; a number alone is seconds.
fn time_span(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "ms" | "msec" => 1e-3,
            "us" | "usec" => 1e-6,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after.trim_start();
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|span| !span.is_zero())
}

/// The servers that networkd has from leases and links for timesyncd, from its state file.
pub(crate) fn leased(text: &str) -> Vec<Server> {
    let lists = text.lines().filter_map(|line| line.strip_prefix("NTP="));
    lists.flat_map(|list| list.trim_matches('"').split_whitespace()).filter_map(Server::from_host).collect()
}

/// Lines without comments; one that ends in a backslash goes on in the next, and comments between them are
/// left out.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        match line.strip_suffix('\\') {
            Some(part) => {
                open.push_str(part);
                open.push(' ');
            }
            None => {
                open.push_str(line);
                lines.push(std::mem::take(&mut open));
            }
        }
    }
    lines.push(open);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut servers = Servers::default();
        texts.iter().for_each(|text| servers.read(text, Path::new("/x")));
        let hosts = |list: Vec<Source>| list.into_iter().map(|source| source.server.host).collect();
        (hosts(servers.ntp), hosts(servers.fallback))
    }

    #[test]
    fn the_file_as_debian_ships_it_names_nothing() {
        let text = "[Time]\n#NTP=\n#FallbackNTP=0.debian.pool.ntp.org 1.debian.pool.ntp.org\n#RootDistanceMaxSec=5\n";

        assert_eq!(read(&[text]), (vec![], vec![]));
    }

    #[test]
    fn lists_grow_over_lines_and_files_until_an_empty_value() {
        let first =
            "[Time]\nNTP=a.example.org b.example.org\nNTP = c.example.org\nFallbackNTP=d.example.org\n";
        let second = "[Time]\nNTP=\nNTP=2001:db8::1\n";

        let expected = ["a.example.org", "b.example.org", "c.example.org"].map(str::to_owned).to_vec();
        assert_eq!(read(&[first]), (expected, vec!["d.example.org".to_owned()]));
        assert_eq!(
            read(&[first, second]),
            (vec!["2001:db8::1".to_owned()], vec!["d.example.org".to_owned()])
        );
    }

    #[test]
    fn the_greatest_distance_is_a_time_of_systemd() {
        for (text, expected) in [
            ("5", Some(Duration::from_secs(5))),
            ("1min 30s", Some(Duration::from_secs(90))),
            ("250ms", Some(Duration::from_millis(250))),
            ("1.5 s", Some(Duration::from_millis(1_500))),
            ("0", None),
            ("", None),
            ("x", None),
            ("5 parsecs", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(time_span(text), expected, "{text}");
        }
        let mut servers = Servers::default();
        servers.read("[Time]\nRootDistanceMaxSec=2s\nRootDistanceMaxSec=nonsense\n", Path::new("/x"));
        assert_eq!(servers.max_distance, Some(Duration::from_secs(2)));
    }

    #[test]
    fn networkd_tells_the_servers_of_its_leases() {
        let text =
            "# This is private data.\nOPER_STATE=routable\nDNS=192.0.2.53\nNTP=192.0.2.1 ntp.example.org\n";

        let hosts: Vec<String> = leased(text).into_iter().map(|server| server.host).collect();

        assert_eq!(hosts, ["192.0.2.1", "ntp.example.org"]);
    }

    #[test]
    fn only_the_right_section_counts_and_lines_can_go_on() {
        let text = "NTP=no\n[Other]\nNTP=no\n[Time]\nntp=no\nNTP=a \\\n# NTP=no\n  b\\\n";

        assert_eq!(read(&[text]), (vec!["a".to_owned(), "b".to_owned()], vec![]));
    }
}
