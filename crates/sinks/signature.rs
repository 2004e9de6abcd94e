//! Signatures of webhooks, so that a receiver knows who sent a request.
//!
//! - Standard Webhooks (standardwebhooks.com): `webhook-id`, `webhook-timestamp`, and `webhook-signature` with
//!   `v1,BASE64(HMAC-SHA256(id.timestamp.body))` for each key, several while keys are changed;
//! - GitHub's `X-Hub-Signature-256: sha256=HEX` over the body.

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Shortest key in bytes; Standard Webhooks asks for 24 to 64.
const MIN_KEY_BYTES: usize = 16;

/// In which form requests are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Standard Webhooks.
    Standard,
    /// GitHub's header.
    Hub,
}

/// Keys for signing; the first one is the newest.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    style: Style,
    keys: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.keys.len())
    }
}

/// A file with keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// There is none.
    #[error("it holds no key: one a line, whsec_ and base64")]
    None,
    /// It has another form.
    #[error("a line is not whsec_ and base64 (for signature \"hub\" any text is a key)")]
    Form,
    /// It is too short.
    #[error("a key is shorter than {MIN_KEY_BYTES} bytes")]
    Short,
}

impl Keys {
    /// Reads keys, one a line.
    ///
    /// # Errors
    /// When a line cannot be a key; the error does not hold it.
    pub fn parse(text: &str, style: Style) -> Result<Self, BadKey> {
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let key = match (style, line.strip_prefix("whsec_")) {
                (_, Some(encoded)) => BASE64.decode(encoded.as_bytes()).map_err(|_| BadKey::Form)?,
                (Style::Standard, None) => return Err(BadKey::Form),
                (Style::Hub, None) => line.as_bytes().to_vec(),
            };
            if key.len() < MIN_KEY_BYTES {
                return Err(BadKey::Short);
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(BadKey::None) } else { Ok(Self { style, keys }) }
    }

    /// The headers for a request; `now` is in seconds since 1970. A request that is sent again keeps its `id`.
    #[must_use]
    pub fn headers(&self, id: &str, now: i64, body: &[u8]) -> Vec<(&'static str, String)> {
        match self.style {
            Style::Standard => {
                let signed = [id.as_bytes(), b".", now.to_string().as_bytes(), b".", body].concat();
                let signatures: Vec<String> = self
                    .keys
                    .iter()
                    .map(|key| format!("v1,{}", BASE64.encode(&hmac(key, &signed))))
                    .collect();
                vec![
                    ("webhook-id", id.to_owned()),
                    ("webhook-timestamp", now.to_string()),
                    ("webhook-signature", signatures.join(" ")),
                ]
            }
            Style::Hub => {
                let newest = self.keys.first().map(|key| HEXLOWER.encode(&hmac(key, body)));
                newest.map(|hex| ("x-hub-signature-256", format!("sha256={hex}"))).into_iter().collect()
            }
        }
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_published_examples() {
        // The example of the specification of Standard Webhooks.
        let keys = Keys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", Style::Standard).unwrap();
        let headers = keys.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(headers[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        // The example of GitHub's documentation.
        let keys = Keys::parse("It's a Secret to Everybody", Style::Hub).unwrap();
        let headers = keys.headers("x", 0, b"Hello, World!");
        assert_eq!(
            headers,
            [(
                "x-hub-signature-256",
                "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17".to_owned()
            )]
        );
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        for (text, style, error) in [
            ("", Style::Standard, BadKey::None),
            ("secret-secret-secret", Style::Standard, BadKey::Form),
            ("whsec_%%%", Style::Hub, BadKey::Form),
            ("short", Style::Hub, BadKey::Short),
        ] {
            assert_eq!(Keys::parse(text, style), Err(error));
        }
        let two = Keys::parse(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx",
            Style::Standard,
        );
        assert_eq!(format!("{:?}", two.as_ref().unwrap()), "2 keys");
        assert_eq!(two.unwrap().headers("a", 1, b"")[2].1.split(' ').count(), 2);
    }
}
