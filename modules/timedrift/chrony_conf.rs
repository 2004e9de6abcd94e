//! The configuration of chronyd, as chrony.conf(5) describes it.

use crate::server_line::Server;
use crate::sources::Directive;

/// Reads the lines that lead to time servers, in their order.
pub(crate) fn directives(text: &str) -> Vec<Directive> {
    lines(text).filter_map(directive).collect()
}

/// Reads a file of a `sourcedir`, in which only servers are looked for.
pub(crate) fn servers(text: &str) -> Vec<Directive> {
    lines(text).filter_map(server).collect()
}

/// The lines that are no comments; a comment begins with its line.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with(['!', ';', '#', '%']))
}

/// Reads a file in which dhclient keeps the servers of a lease for chronyd: lines without the first word.
pub(crate) fn leased(text: &str) -> Vec<Directive> {
    lines(text).filter(|line| !line.is_empty()).filter_map(|line| server(&format!("server {line}"))).collect()
}

fn server(line: &str) -> Option<Directive> {
    Some(match Server::from_words(line)? {
        Ok(server) => Directive::Server(server),
        Err(error) => Directive::Bad(error),
    })
}

fn directive(line: &str) -> Option<Directive> {
    if let Some(server) = server(line) {
        return Some(server);
    }
    let mut words = line.split_whitespace();
    let keyword = words.next()?.to_ascii_lowercase();
    let mut paths = words.map(str::to_owned);
    match keyword.as_str() {
        "maxdistance" => Directive::max_distance(&paths.next()?),
        "include" => paths.next().map(Directive::Include),
        "confdir" => Some(Directive::ConfigDirectories(paths.collect())),
        "sourcedir" => Some(Directive::SourceDirectories(paths.collect())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_servers_is_read_and_comments_are_not() {
        let text = "! a\n; server b\n# server c\n  % server d\nPool e iburst\ninclude /etc/x/*.conf\n\
                    confdir /etc/a /etc/b\nsourcedir /run/c\nrefclock SHM 0\nserver f port 0\nallow\n";

        let read = directives(text);

        assert!(matches!(&read[0], Directive::Server(server) if server.host == "e" && server.is_pool));
        assert!(matches!(&read[1], Directive::Include(path) if path == "/etc/x/*.conf"));
        assert!(matches!(&read[2], Directive::ConfigDirectories(paths) if paths == &["/etc/a", "/etc/b"]));
        assert!(matches!(&read[3], Directive::SourceDirectories(paths) if paths == &["/run/c"]));
        assert!(matches!(&read[4], Directive::Bad(_)));
        assert_eq!(read.len(), 5);
    }

    #[test]
    fn a_file_of_sources_cannot_lead_to_other_files() {
        assert_eq!(servers("include /etc/x\nserver a\nconfdir /etc/b\n").len(), 1);
    }
}
