//! Certificates for clients of brokers that want one: a CA, the keys of hosts, and what the CA signs. Pure but for
//! random numbers.
//!
//! Who somebody is, the broker takes from the login and not from the certificate; a certificate only opens the door.
//! All that one says comes from whoever signs it; of a request only the public key is taken.

use std::time::Duration;

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use vigie_files::random;

/// How long a host's certificate holds, in seconds: 90 days.
pub const VALID_SECONDS: i64 = 90 * 24 * 3600;

/// How long a CA's holds: ten years.
const CA_SECONDS: i64 = 3650 * 24 * 3600;

/// Clocks of others that are behind, in seconds.
const SKEW_SECONDS: i64 = 3600;

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The CA's certificate or key cannot be read.
    #[error(
        "the CA's certificate and key cannot be used: give ca.pem and its key, both in PEM (the key as PKCS #8)"
    )]
    Authority(#[source] rcgen::Error),
    /// A key cannot be read.
    #[error("the key for the certificate cannot be used")]
    Key(#[source] rcgen::Error),
    /// The public key is not such as certificates of hosts have.
    #[error("the public key for the certificate has an unknown type")]
    PublicKey,
    /// It cannot be made.
    #[error("the certificate cannot be created")]
    Make(#[source] rcgen::Error),
}

/// A key and a certificate, in PEM.
#[derive(Clone)]
pub struct Made {
    /// The certificate.
    pub certificate: String,
    /// Its key. Secret.
    pub key: String,
}

/// A new secret key of ECDSA P-256, in PEM.
///
/// # Errors
///
/// When the system gives no random numbers.
pub fn new_key() -> Result<String, CertificateError> {
    Ok(KeyPair::generate().map_err(CertificateError::Key)?.serialize_pem())
}

/// The public half (SubjectPublicKeyInfo, RFC 5280) of a key in PEM, in base64.
///
/// # Errors
///
/// When it is no key.
pub fn public_key(pem: &str) -> Result<String, CertificateError> {
    let key = KeyPair::from_pem(pem).map_err(CertificateError::Key)?;
    Ok(BASE64.encode(&key.subject_public_key_info()))
}

/// Makes an authority for one fleet alone.
///
/// # Errors
///
/// When it cannot be made.
pub fn new_authority(fleet: &str, now: i64) -> Result<Made, CertificateError> {
    let key = KeyPair::generate().map_err(CertificateError::Key)?;
    let mut params = params(&format!("Vigie fleet {fleet} CA"), now, now.saturating_add(CA_SECONDS))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(CertificateError::Make)?;
    Ok(Made { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Signs certificates.
pub struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// The authority of a certificate and its key, in PEM.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn new(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key).map_err(CertificateError::Authority)?;
        Ok(Self(Issuer::from_ca_cert_pem(certificate, key).map_err(CertificateError::Authority)?))
    }

    /// A certificate for a client with this name and public key (in base64), in PEM.
    ///
    /// # Errors
    ///
    /// When the key is none, or the certificate cannot be made.
    pub fn client(
        &self,
        name: &str,
        public_key: &str,
        now: i64,
        until: i64,
    ) -> Result<String, CertificateError> {
        let der = BASE64.decode(public_key.as_bytes()).map_err(|_| CertificateError::PublicKey)?;
        let key = SubjectPublicKeyInfo::from_der(&der).map_err(|_| CertificateError::PublicKey)?;
        let mut params = params(name, now, until)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, &key)
    }

    /// A certificate for a broker that is reached by these names and addresses, with a new key.
    ///
    /// # Errors
    ///
    /// When a name cannot stand in a certificate.
    pub fn server(&self, names: &[String], now: i64, until: i64) -> Result<Made, CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::Key)?;
        let mut params = params(names.first().map_or("broker", String::as_str), now, until)?;
        let subjects = names.iter().map(|name| match name.parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => name.as_str().try_into().map(SanType::DnsName),
        });
        params.subject_alt_names = subjects.collect::<Result<_, _>>().map_err(CertificateError::Make)?;
        // Servers of a cluster are each other's clients.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(Made { certificate: self.sign(params, &key)?, key: key.serialize_pem() })
    }

    fn sign(
        &self,
        params: CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Result<String, CertificateError> {
        Ok(params.signed_by(key, &self.0).map_err(CertificateError::Make)?.pem())
    }
}

fn params(name: &str, now: i64, until: i64) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let at = |seconds: i64| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or_default().min(FAR))
    };
    params.not_before = at(now.saturating_sub(SKEW_SECONDS));
    params.not_after = at(until);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let mut serial: [u8; 16] = random::bytes().expect("the kernel has random numbers once it has started");
    // Positive, as RFC 5280 wants it.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// The year 9999, in seconds since 1970: what certificates can say.
const FAR: u64 = 253_370_764_800;

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::broker::client::expiry;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn what_an_authority_signs_ends_when_it_says_and_takes_only_the_key_of_a_request() {
        let made = new_authority("example", NOW).unwrap();
        let authority = Authority::new(&made.certificate, &made.key).unwrap();
        let key = new_key().unwrap();

        let pem = authority.client("web-1", &public_key(&key).unwrap(), NOW, NOW + VALID_SECONDS).unwrap();

        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(expiry::not_after(&der), Some(NOW + VALID_SECONDS));
        for bad in ["", "AAAA", "not base64", &public_key(&key).unwrap()[..20]] {
            assert!(authority.client("web-1", bad, NOW, NOW + 1).is_err(), "{bad}");
        }
        assert!(Authority::new(&made.certificate, "x").is_err());
        assert!(
            authority.client("web-1", &public_key(&key).unwrap(), NOW, i64::MAX).is_ok(),
            "no time panics"
        );
        let names = ["broker.example.org".to_owned(), "192.0.2.1".to_owned()];
        assert!(authority.server(&names, NOW, NOW + 1).is_ok());
        assert!(authority.server(&["\u{e9}".to_owned()], NOW, NOW + 1).is_err());
    }
}
