//! The configuration of systemd-timesyncd, as timesyncd.conf(5) and systemd.syntax(7) describe it.

use std::path::Path;

use crate::server_line::Server;
use crate::sources::Source;

/// The servers that timesyncd's files name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// `NTP=`
    pub(crate) ntp: Vec<Source>,
    /// `FallbackNTP=`, asked when there is nothing else.
    pub(crate) fallback: Vec<Source>,
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
                _ => continue,
            };
            if value.trim().is_empty() {
                list.clear();
            }
            let servers = value.split_whitespace().filter_map(Server::from_host);
            list.extend(servers.map(|server| Source { server, named_in: Some(path.to_owned()) }));
        }
    }
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
    fn only_the_right_section_counts_and_lines_can_go_on() {
        let text = "NTP=no\n[Other]\nNTP=no\n[Time]\nntp=no\nNTP=a \\\n# NTP=no\n  b\\\n";

        assert_eq!(read(&[text]), (vec!["a".to_owned(), "b".to_owned()], vec![]));
    }
}
