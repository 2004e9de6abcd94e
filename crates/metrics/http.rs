//! The little of HTTP/1.1 that a scraper needs: one GET, one answer, the connection closes.

use crate::Form;

/// Longest head of a request in bytes; Prometheus sends about 300.
pub const MAX_HEAD_BYTES: usize = 8 << 10;

/// What a scraper wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The format that it prefers.
    pub form: Form,
    /// It wants only the head of the answer.
    pub head_only: bool,
}

/// Why a request is not answered with metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no request of HTTP/1.
    #[error("not an HTTP request")]
    Malformed,
    /// Another method than GET and HEAD.
    #[error("only GET and HEAD are supported")]
    Method,
    /// Another path than `/metrics`.
    #[error("only /metrics exists")]
    Path,
    /// A browser was led here under the name of another host (DNS rebinding).
    #[error("the Host of the request is not this host's loopback")]
    Host,
    /// The agent is stopping, or too busy to say how it is.
    #[error("the agent's status is not available")]
    Unavailable,
}

impl Refused {
    fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::Method => "405 Method Not Allowed",
            Self::Path => "404 Not Found",
            Self::Host => "421 Misdirected Request",
            Self::Unavailable => "503 Service Unavailable",
        }
    }

    /// The answer to the request.
    #[must_use]
    pub fn response(self) -> Vec<u8> {
        response(self.status(), "text/plain; charset=utf-8", &format!("{self}\n"), false)
    }
}

/// Whether the head of a request is complete.
#[must_use]
pub fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// Reads the head of a request. `on_loopback` says that it came over TCP, where its `Host` must be this host's
/// loopback.
///
/// # Errors
/// Why it is not answered with metrics.
pub fn read(head: &[u8], on_loopback: bool) -> Result<Wanted, Refused> {
    let text = std::str::from_utf8(head).map_err(|_| Refused::Malformed)?;
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refused::Malformed);
    };
    if !version.starts_with("HTTP/1.") {
        return Err(Refused::Malformed);
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refused::Method),
    };
    let (mut accept, mut host) = (String::new(), None);
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { return Err(Refused::Malformed) };
        let value = value.trim();
        if name.eq_ignore_ascii_case("accept") {
            accept.push_str(value);
            accept.push(',');
        } else if name.eq_ignore_ascii_case("host") {
            host = Some(value);
        }
    }
    if on_loopback && !host.is_some_and(is_loopback) {
        return Err(Refused::Host);
    }
    if target.split('?').next() != Some("/metrics") {
        return Err(Refused::Path);
    }
    Ok(Wanted { form: preferred(&accept), head_only })
}

/// Whether a `Host` names the loopback of this host.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The format that an `Accept` prefers (RFC 9110, 12.5.1): OpenMetrics where it is named with at least the weight of
/// plain text.
fn preferred(accept: &str) -> Form {
    let (mut open, mut text) = (0.0_f32, 0.0_f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut weight, mut known) = (1.0_f32, true);
        for part in parts {
            match part.split_once('=') {
                Some(("q", value)) => weight = value.trim().parse().unwrap_or(0.0),
                Some(("version", value)) if media == "application/openmetrics-text" => {
                    known = matches!(value.trim_matches('"'), "1.0.0" | "0.0.1");
                }
                _ => {}
            }
        }
        match media {
            "application/openmetrics-text" if known => open = open.max(weight),
            "text/plain" | "text/*" => text = text.max(weight),
            _ => {}
        }
    }
    if open > 0.0 && open >= text { Form::OpenMetrics } else { Form::Text }
}

/// The answer with a page of metrics.
#[must_use]
pub fn page(wanted: Wanted, page: &str) -> Vec<u8> {
    response("200 OK", wanted.form.content_type(), page, wanted.head_only)
}

fn response(status: &str, content_type: &str, body: &str, head_only: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\
         X-Content-Type-Options: nosniff\r\n\r\n",
        body.len()
    );
    let mut bytes = head.into_bytes();
    if !head_only {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(headers: &str) -> Result<Wanted, Refused> {
        read(format!("GET /metrics HTTP/1.1\r\n{headers}\r\n").as_bytes(), true)
    }

    #[test]
    fn the_format_is_the_one_that_the_scraper_prefers() {
        let form = |accept: &str| get(&format!("Host: localhost:9469\r\n{accept}")).unwrap().form;

        assert_eq!(form(""), Form::Text);
        assert_eq!(form("Accept: */*\r\n"), Form::Text);
        // Prometheus 2.42, and a scraper that prefers text.
        let prometheus = "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
        assert_eq!(form(prometheus), Form::OpenMetrics);
        assert_eq!(form("Accept: application/openmetrics-text;q=0.2, text/plain;q=0.9\r\n"), Form::Text);
        assert_eq!(form("accept: application/openmetrics-text; version=2.0.0\r\n"), Form::Text);
        assert_eq!(form("Accept: application/openmetrics-text;q=0\r\n"), Form::Text);
    }

    #[test]
    fn a_browser_that_was_led_here_by_another_name_is_refused() {
        for host in ["localhost", "LOCALHOST:9469", "127.0.0.1:9469", "127.9.9.9", "[::1]:9469"] {
            assert!(get(&format!("Host: {host}\r\n")).is_ok(), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:9469", "[::2]", "localhost.evil", ""]
        {
            assert_eq!(get(&format!("Host: {host}\r\n")), Err(Refused::Host), "{host}");
        }
        assert_eq!(get(""), Err(Refused::Host));
        // Nobody can lead a browser to a unix socket.
        assert!(read(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n", false).is_ok());
    }

    #[test]
    fn what_is_no_scrape_is_refused_with_its_reason() {
        let refused = |head: &str| read(head.as_bytes(), false).unwrap_err();
        assert_eq!(refused("POST /metrics HTTP/1.1\r\n\r\n"), Refused::Method);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Refused::Path);
        assert_eq!(refused("GET /metrics\r\n\r\n"), Refused::Malformed);
        assert_eq!(refused("GET /metrics HTTP/2\r\n\r\n"), Refused::Malformed);
        assert!(read(b"HEAD /metrics?x=1 HTTP/1.1\r\n\r\n", false).unwrap().head_only);
    }

    #[test]
    fn an_answer_says_its_length_and_format() {
        let wanted = Wanted { form: Form::OpenMetrics, head_only: false };

        let answer = String::from_utf8(page(wanted, "# EOF\n")).unwrap();

        assert!(
            answer
                .starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0")
        );
        assert!(answer.contains("Content-Length: 6\r\n") && answer.ends_with("\r\n\r\n# EOF\n"));
        assert!(
            !String::from_utf8(page(Wanted { head_only: true, ..wanted }, "# EOF\n"))
                .unwrap()
                .contains("EOF")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(&bytes, true);
            let _ = is_whole(&bytes);
        }
    }
}
