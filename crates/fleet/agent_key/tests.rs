use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

const PURPOSES: [Purpose; 4] = [Purpose::Answer, Purpose::Alert, Purpose::Facts, Purpose::Audit];

/// A key that never comes twice in a test needs no file.
fn key(number: u8) -> AgentKey {
    AgentKey::from_pair(KeyPair::new_from_raw(KeyPairType::User, [number; 32]).unwrap()).unwrap()
}

#[test]
fn a_seal_holds_for_its_purpose_and_key_only() {
    let key = key(1);
    for made_for in PURPOSES {
        let sealed = key.seal(made_for, "the text".to_owned()).unwrap();
        for opened_for in PURPOSES {
            let expected = if opened_for == made_for { Ok("the text") } else { Err(SealError::Forged) };
            assert_eq!(open(&sealed, opened_for, key.public_key()), expected);
        }
        assert_eq!(open(&sealed, made_for, super::tests::key(2).public_key()), Err(SealError::Forged));
    }
}

#[test]
fn a_seed_and_a_public_key_come_back_from_their_texts() {
    let seed = key(7).seed();
    let again = AgentKey::from_seed(&seed).unwrap();
    assert_eq!(again.seed(), seed);
    assert!(seed.starts_with("SU"));
    let text = again.public_key().text();
    assert!(text.starts_with('U'));
    assert_eq!(text.parse::<AgentPublicKey>().unwrap(), *key(7).public_key());
}

#[test]
fn keys_of_other_kinds_are_no_keys_of_agents() {
    let account = KeyPair::new_account();
    assert!(matches!(account.public_key().parse::<AgentPublicKey>(), Err(AgentKeyError::PublicKey)));
    assert!(matches!(AgentKey::from_seed(&account.seed().unwrap()), Err(AgentKeyError::Seed)));
    assert!(matches!(key(1).seed().parse::<AgentPublicKey>(), Err(AgentKeyError::PublicKey)));
    assert!(matches!(AgentKey::from_seed(&key(1).public_key().text()), Err(AgentKeyError::Seed)));
}

#[test]
fn the_key_survives_in_its_file_and_its_secret_is_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.key");

    let made = AgentKey::load_or_create(&path).unwrap();
    let again = AgentKey::load_or_create(&path).unwrap();

    assert_eq!(made.public_key(), again.public_key());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(made.store(&path).is_err());
    assert!(!format!("{made:?}").contains(&made.seed()));
}

#[test]
fn a_file_that_others_can_read_or_that_holds_no_seed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.key");
    key(1).store(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = AgentKey::load_or_create(&path).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "SUnot a key").unwrap();
    assert!(matches!(AgentKey::load(&path), Err(AgentKeyError::Seed)));
}

#[test]
fn texts_larger_than_a_message_are_neither_sealed_nor_opened() {
    let large = "x".repeat(MAX_SEALED_BYTES + 1);
    assert_eq!(key(1).seal(Purpose::Answer, large.clone()), Err(SealError::TooLarge));
    let sealed = Sealed { text: large, sig: String::new() };
    assert_eq!(open(&sealed, Purpose::Answer, key(1).public_key()), Err(SealError::TooLarge));
    assert!(key(1).seal(Purpose::Answer, "x".repeat(MAX_SEALED_BYTES)).is_ok());
}

/// With a key of small order, S = 0 and the neutral element as R, the plain check passes for about one text in the
/// key's order, whoever wrote it.
#[test]
fn keys_of_small_order_are_refused_although_the_plain_check_takes_their_forgeries() {
    let mut signature = [0; SIGNATURE_BYTES];
    signature[0] = 1;
    let mut forged = 0;
    for (point, sign) in SMALL_ORDER.iter().flat_map(|point| [(point, 0), (point, 0x80)]) {
        let mut bytes = *point;
        bytes[31] |= sign;
        let text = encode_user(&bytes);
        assert!(text.parse::<AgentPublicKey>().is_err(), "{text}");
        // Some of the unreduced encodings with a sign stand for no point.
        let Ok(pair) = KeyPair::from_public_key(&text) else { continue };
        let passes = (0..256u16).any(|number| pair.verify(&number.to_le_bytes(), &signature).is_ok());
        assert!(passes, "{text} is of small order");
        forged += 1;
    }
    assert!(forged >= 8, "all eight points were tried");
}

/// The text form of any 32 bytes as a user's key: `nkeys` writes only keys of real secrets.
fn encode_user(bytes: &[u8; 32]) -> String {
    let mut raw = vec![20 << 3];
    raw.extend_from_slice(bytes);
    // CRC-16/XMODEM, little-endian, as nkeys appends it.
    let mut crc = 0u16;
    for byte in &raw {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    raw.extend_from_slice(&crc.to_le_bytes());
    data_encoding::BASE32_NOPAD.encode(&raw)
}

proptest! {
    #[test]
    fn every_text_is_opened_as_it_was_sealed(text in ".{0,300}", number in any::<u8>()) {
        let key = key(number);
        let sealed = key.seal(Purpose::Facts, text.clone()).unwrap();
        prop_assert_eq!(open(&sealed, Purpose::Facts, key.public_key()), Ok(text.as_str()));
    }

    #[test]
    fn a_seal_with_one_bit_changed_is_refused(bit in 0..SIGNATURE_BYTES * 8) {
        let key = key(3);
        let mut sealed = key.seal(Purpose::Answer, "text".to_owned()).unwrap();
        let mut signature = BASE64.decode(sealed.sig.as_bytes()).unwrap();
        signature[bit / 8] ^= 1 << (bit % 8);
        sealed.sig = BASE64.encode(&signature);
        prop_assert_eq!(open(&sealed, Purpose::Answer, key.public_key()), Err(SealError::Forged));
    }

    #[test]
    fn a_changed_text_is_refused(text in ".{1,60}", other in ".{1,60}") {
        prop_assume!(text != other);
        let key = key(4);
        let mut sealed = key.seal(Purpose::Alert, text).unwrap();
        sealed.text = other;
        prop_assert_eq!(open(&sealed, Purpose::Alert, key.public_key()), Err(SealError::Forged));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,80}|[A-Z2-7]{54,60}|S?U[A-Z2-7]{55,57}", sig in "\\PC{0,90}|[A-Za-z0-9+/]{86}==") {
        let _ = text.parse::<AgentPublicKey>();
        let _ = AgentKey::from_seed(&text);
        let sealed = Sealed { text, sig };
        prop_assert!(open(&sealed, Purpose::Answer, key(5).public_key()).is_err());
    }
}
