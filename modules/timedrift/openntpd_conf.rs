//! The configuration of OpenNTPD, as ntpd.conf(5) of OpenBSD describes it.

use crate::server_line::{BadServer, Server};
use crate::sources::Directive;

/// Reads the lines that name time servers, in their order. `servers` names several behind one name.
pub(crate) fn directives(text: &str) -> Vec<Directive> {
    text.lines().filter_map(|line| directive(line.split('#').next().unwrap_or_default())).collect()
}

fn directive(line: &str) -> Option<Directive> {
    let mut words = line.split_whitespace();
    let is_pool = match words.next()? {
        "server" => false,
        "servers" => true,
        _ => return None,
    };
    let host = words.next().unwrap_or_default().trim_matches('"');
    Some(match Server::from_host(host) {
        Some(mut server) => {
            server.is_pool = is_pool;
            // Its trust is another one than chronyd's: the server needs no agreement with constraints.
            Directive::Server(server)
        }
        None => Directive::Bad(BadServer::new(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_servers_are_read_and_other_lines_are_not() {
        let text = "# $OpenBSD$\nlisten on *\nservers pool.ntp.org\nserver time.example.org weight 5 trusted # x\n\
                    sensor *\nconstraint from \"9.9.9.9\"\nconstraints from \"www.example.org\"\nserver\n";

        let read = directives(text);

        assert!(matches!(&read[0], Directive::Server(one) if one.host == "pool.ntp.org" && one.is_pool));
        assert!(matches!(&read[1], Directive::Server(one) if one.host == "time.example.org" && !one.is_pool));
        assert!(matches!(&read[2], Directive::Bad(_)));
        assert_eq!(read.len(), 3);
    }
}
