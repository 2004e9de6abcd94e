//! What is sent to a time server, and what may be believed of its answer.
//!
//! The packet is that of RFC 5905, section 7.3; a client that asks once is what RFC 4330 calls an SNTP
//! client:
//!
//! ```text
//!  0 leap indicator (2 bits), version (3), mode (3)     16 reference timestamp
//!  1 stratum       2 poll       3 precision             24 origin timestamp: what the client sent at 40
//!  4 root delay    8 root dispersion                    32 receive timestamp, T2
//! 12 reference id, or the code of a kiss-o'-death       40 transmit timestamp, T3
//! ```
//!
//! Nothing of the packet is looked at before its origin timestamp is the random number of the request: only
//! who saw the request can know it. The real time of sending, T1, never leaves the host.

use crate::timestamp::{Interval, NtpTimestamp};

/// Bytes of a packet without extensions and authentication.
pub const PACKET_BYTES: usize = 48;

const ORIGIN_AT: usize = 24;

/// No leap second announced, version 4, mode 3 (client).
const REQUEST_HEADER: u8 = (4 << 3) | 3;

const SERVER_MODE: u8 = 4;

/// Leap indicator of a server that is not synchronised.
const NOT_SYNCHRONISED: u8 = 3;

/// MAXSTRAT of RFC 5905: not synchronised.
const MAX_STRATUM: u8 = 16;

/// MAXDISP of RFC 5905 in seconds: a server that is farther than this from the time knows nothing.
const MAX_ROOT_DISTANCE_SECS: u32 = 16;

/// Coarsest precision that is believed, 2^-6 s: the timer tick of old systems. A larger claim would excuse
/// anything.
const COARSEST_PRECISION: i8 = -6;

/// The clocks of client and server may run so much apart while a request is on its way: PHI of RFC 5905, as
/// 1/n.
const FREQUENCY_TOLERANCE_DIVISOR: i128 = 1_000_000 / 15;

/// One request that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The random number in the place of the transmit timestamp.
    pub nonce: u64,
    /// T1: when the request was sent, by the host's clock.
    pub sent_at: NtpTimestamp,
}

/// What a valid answer tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// What must be added to the host's clock to make it the server's.
    pub offset: Interval,
    /// How long request and answer were on their way, without the time that the server took.
    pub delay: Interval,
    /// The offset to the true time is wrong by at most this, if the server is right about itself.
    pub error_bound: Interval,
    /// T3 minus T1: the server's clock when it answered, seen from the host's clock when it asked.
    pub transmitted_after_request: Interval,
    /// How many servers away a reference clock is, 1 to 15.
    pub stratum: u8,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not an answer to the request; waiting goes on.
    Ignored,
    /// The answer to the request, but it must not be believed.
    Refused(Refusal),
    /// A valid answer.
    Measured(Measurement),
}

/// Why the answer to the request is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It ends too soon.
    #[error("the answer has {0} bytes, but a packet must have at least {PACKET_BYTES}")]
    Short(usize),
    /// It comes from no server.
    #[error("the answer has mode {0} instead of the server mode {SERVER_MODE}")]
    Mode(u8),
    /// It is of an unknown version.
    #[error("the answer has version {0}, but only 1 to 4 are known")]
    Version(u8),
    /// The server does not want to be asked.
    #[error("kod:{0}")]
    KissOfDeath(KissCode),
    /// The server says that it does not know the time.
    #[error("the server is not synchronised (leap indicator {NOT_SYNCHRONISED})")]
    NotSynchronised,
    /// The server is too far from a reference clock.
    #[error("the server is not synchronised (stratum {0}, must be 1 to 15)")]
    Stratum(u8),
    /// T2 is missing.
    #[error("the answer lacks the receive timestamp")]
    NoReceiveTime,
    /// T3 is missing.
    #[error("the answer lacks the transmit timestamp")]
    NoTransmitTime,
    /// T3 is before T2.
    #[error("the answer was sent before the request arrived, by the server's own clock")]
    SentBeforeReceived,
    /// The server admits a large error.
    #[error("the server reports a possible error of {MAX_ROOT_DISTANCE_SECS} s or more")]
    RootDistance,
    /// The server's clock was last set in its future.
    #[error("the server's clock was set after the answer was sent, by the server's own clock")]
    ReferenceInFuture,
    /// The server claims to have kept the request for longer than there was.
    #[error("the server kept the request longer than the answer took to come")]
    NegativeDelay,
}

/// The code of a kiss-o'-death packet, RFC 5905 section 7.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KissCode([u8; 4]);

impl std::fmt::Display for KissCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Four letters by the standard; anything else is somebody's bytes and is shown as what it is.
        match std::str::from_utf8(&self.0) {
            Ok(code) if code.bytes().all(|byte| byte.is_ascii_alphanumeric()) => formatter.write_str(code),
            _ => write!(formatter, "0x{:08x}", u32::from_be_bytes(self.0)),
        }
    }
}

impl Request {
    /// The bytes to send. All but the first byte and the random number is zero: a server learns nothing of
    /// the host.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PACKET_BYTES] {
        let mut packet = [0; PACKET_BYTES];
        packet[0] = REQUEST_HEADER;
        packet[PACKET_BYTES - 8..].copy_from_slice(&self.nonce.to_be_bytes());
        packet
    }

    /// Judges a packet that came when the host's clock, going on evenly from [`Request::sent_at`], showed
    /// `received_at`.
    #[must_use]
    pub fn judge(&self, packet: &[u8], received_at: NtpTimestamp) -> Verdict {
        let origin = packet.get(ORIGIN_AT..).and_then(|rest| rest.first_chunk().copied());
        if origin.map(u64::from_be_bytes) != Some(self.nonce) {
            return Verdict::Ignored;
        }
        match self.measure(packet, received_at) {
            Ok(measurement) => Verdict::Measured(measurement),
            Err(refusal) => Verdict::Refused(refusal),
        }
    }

    fn measure(&self, packet: &[u8], received_at: NtpTimestamp) -> Result<Measurement, Refusal> {
        let packet: &[u8; PACKET_BYTES] = packet.first_chunk().ok_or(Refusal::Short(packet.len()))?;
        let header = Header::read(packet);
        header.check()?;

        let elapsed = received_at.since(self.sent_at);
        let delay = elapsed - header.transmit.since(header.receive);
        let precision = Interval::from_exponent(header.precision.min(COARSEST_PRECISION));
        if delay + precision < Interval::ZERO {
            return Err(Refusal::NegativeDelay);
        }
        // The same as ((T2 - T1) + (T3 - T4)) / 2, but with one difference that can wrap: where the clocks
        // are 68 years apart, one of two would, and the mean of both would be next to nothing.
        let offset = header.receive.since(self.sent_at) - delay.half();
        let delay = delay.max(Interval::ZERO);
        Ok(Measurement {
            offset,
            delay,
            error_bound: delay.half()
                + header.root_distance()
                + precision
                + elapsed.divided(FREQUENCY_TOLERANCE_DIVISOR),
            transmitted_after_request: header.transmit.since(self.sent_at),
            stratum: header.stratum,
        })
    }
}

/// The fields of a packet that count.
struct Header {
    leap_indicator: u8,
    version: u8,
    mode: u8,
    stratum: u8,
    precision: i8,
    root_delay: u32,
    root_dispersion: u32,
    reference_id: [u8; 4],
    reference: NtpTimestamp,
    receive: NtpTimestamp,
    transmit: NtpTimestamp,
}

impl Header {
    fn read(packet: &[u8; PACKET_BYTES]) -> Self {
        let word = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
        let short = |at: usize| u32::from_be_bytes(word(at));
        let timestamp =
            |at: usize| NtpTimestamp::from_bits((u64::from(short(at)) << 32) | u64::from(short(at + 4)));
        Self {
            leap_indicator: packet[0] >> 6,
            version: (packet[0] >> 3) & 7,
            mode: packet[0] & 7,
            stratum: packet[1],
            precision: packet[3].cast_signed(),
            root_delay: short(4),
            root_dispersion: short(8),
            reference_id: word(12),
            reference: timestamp(16),
            receive: timestamp(32),
            transmit: timestamp(40),
        }
    }

    /// What the server's own error may be.
    fn root_distance(&self) -> Interval {
        Interval::from_short(self.root_delay).half() + Interval::from_short(self.root_dispersion)
    }

    /// The tests of RFC 5905 (appendix A.5.1.1) and RFC 4330 (section 5) that need nothing but the packet.
    fn check(&self) -> Result<(), Refusal> {
        if self.mode != SERVER_MODE {
            return Err(Refusal::Mode(self.mode));
        }
        if !(1..=4).contains(&self.version) {
            return Err(Refusal::Version(self.version));
        }
        // Before the leap indicator, which a kiss-o'-death has set as well.
        if self.stratum == 0 {
            return Err(Refusal::KissOfDeath(KissCode(self.reference_id)));
        }
        if self.leap_indicator == NOT_SYNCHRONISED {
            return Err(Refusal::NotSynchronised);
        }
        if self.stratum >= MAX_STRATUM {
            return Err(Refusal::Stratum(self.stratum));
        }
        if self.receive.is_unknown() {
            return Err(Refusal::NoReceiveTime);
        }
        if self.transmit.is_unknown() {
            return Err(Refusal::NoTransmitTime);
        }
        if self.transmit.since(self.receive) < Interval::ZERO {
            return Err(Refusal::SentBeforeReceived);
        }
        if self.root_distance() >= Interval::from_secs(MAX_ROOT_DISTANCE_SECS) {
            return Err(Refusal::RootDistance);
        }
        // Simple servers leave it empty.
        if !self.reference.is_unknown() && self.reference.since(self.transmit) > Interval::ZERO {
            return Err(Refusal::ReferenceInFuture);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Units of a timestamp in a second.
    const SECOND: u64 = 1 << 32;

    /// A request and its answer from a server that is right about itself, all in units of 2^-32 s.
    #[derive(Debug, Clone, Copy)]
    struct Case {
        sent_at: u64,
        /// The server's clock minus the host's.
        offset: u64,
        out: u64,
        kept: u64,
        back: u64,
    }

    impl Case {
        fn request(self) -> Request {
            Request { nonce: 0x0123_4567_89ab_cdef, sent_at: NtpTimestamp::from_bits(self.sent_at) }
        }

        fn answer(self) -> [u8; PACKET_BYTES] {
            let receive = self.sent_at.wrapping_add(self.out).wrapping_add(self.offset);
            let transmit = receive.wrapping_add(self.kept);
            let mut packet = [0; PACKET_BYTES];
            packet[..4].copy_from_slice(&[(4 << 3) | SERVER_MODE, 2, 6, (-23_i8).cast_unsigned()]);
            packet[24..32].copy_from_slice(&self.request().nonce.to_be_bytes());
            packet[32..40].copy_from_slice(&receive.to_be_bytes());
            packet[40..].copy_from_slice(&transmit.to_be_bytes());
            packet
        }

        fn received_at(self) -> NtpTimestamp {
            NtpTimestamp::from_bits(
                self.sent_at.wrapping_add(self.out).wrapping_add(self.kept).wrapping_add(self.back),
            )
        }

        fn judge(self) -> Verdict {
            self.request().judge(&self.answer(), self.received_at())
        }
    }

    fn case() -> impl Strategy<Value = Case> {
        let way = || 0..10 * SECOND;
        // Timestamps of zero mean "not known", a quarter of a nanosecond in 136 years.
        (any::<u64>(), any::<u64>(), way(), way(), way())
            .prop_map(|(sent_at, offset, out, kept, back)| Case { sent_at, offset, out, kept, back })
            .prop_filter("timestamps are known", |case| {
                let receive = case.sent_at.wrapping_add(case.out).wrapping_add(case.offset);
                receive != 0 && receive.wrapping_add(case.kept) != 0
            })
    }

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_bound_in_every_era(case in case()) {
            let Verdict::Measured(measurement) = case.judge() else {
                return Err(TestCaseError::fail(format!("{:?}", case.judge())));
            };

            // Halfway around the era the sign cannot be known.
            let truth = NtpTimestamp::from_bits(case.offset).since(NtpTimestamp::from_bits(0));
            let wrong = measurement.offset - truth;
            let era = Interval::from_secs(u32::MAX) + Interval::from_secs(1);
            let near = |wrong: Interval| wrong <= measurement.error_bound && -wrong <= measurement.error_bound;
            prop_assert!(near(wrong) || near(wrong - era) || near(wrong + era), "{:?}", measurement);
            let delay = NtpTimestamp::from_bits(case.out + case.back).since(NtpTimestamp::from_bits(0));
            prop_assert_eq!(measurement.delay, delay);
        }

        #[test]
        fn equal_ways_give_the_offset_itself(case in case()) {
            let case = Case { back: case.out, ..case };
            let Verdict::Measured(measurement) = case.judge() else {
                return Err(TestCaseError::fail(format!("{:?}", case.judge())));
            };

            let truth = NtpTimestamp::from_bits(case.offset).since(NtpTimestamp::from_bits(0));
            let era = Interval::from_secs(u32::MAX) + Interval::from_secs(1);
            let wrong = measurement.offset - truth;
            prop_assert!([Interval::ZERO, era, -era].contains(&wrong), "{:?}", measurement);
        }

        #[test]
        fn no_bytes_panic(
            mut packet in prop::collection::vec(any::<u8>(), 0..100),
            sent_at: u64,
            received_at: u64,
        ) {
            let request = Request { nonce: 7, sent_at: NtpTimestamp::from_bits(sent_at) };
            let received_at = NtpTimestamp::from_bits(received_at);
            if packet.get(24..32) != Some(&7_u64.to_be_bytes()) {
                prop_assert_eq!(request.judge(&packet, received_at), Verdict::Ignored);
            }
            if packet.len() >= 32 {
                packet[24..32].copy_from_slice(&7_u64.to_be_bytes());
                prop_assert_ne!(request.judge(&packet, received_at), Verdict::Ignored);
            }
        }

        #[test]
        fn every_accepted_answer_has_a_bound_that_holds_its_delay(case in case(), header: [u8; 12]) {
            let mut packet = case.answer();
            packet[..12].copy_from_slice(&header);
            packet[0] = (packet[0] & 0b1111_1000) | SERVER_MODE;
            if let Verdict::Measured(measurement) = case.request().judge(&packet, case.received_at()) {
                prop_assert!(measurement.error_bound >= measurement.delay.half());
                // The server may be wrong by less than 16 s, and the delay is below 20 s.
                prop_assert!(measurement.error_bound < Interval::from_secs(27));
                prop_assert!((1..MAX_STRATUM).contains(&measurement.stratum));
            }
        }
    }

    #[test]
    fn clocks_half_an_era_apart_are_not_taken_for_equal() {
        for offset in [SECOND << 31, (SECOND << 31) - 1, (SECOND << 31) - SECOND / 20] {
            let case = Case { sent_at: 5, offset, out: SECOND / 10, kept: 0, back: SECOND / 10 };
            let Verdict::Measured(measurement) = case.judge() else { panic!("{:?}", case.judge()) };

            let far = measurement.offset.max(-measurement.offset);
            assert!(far > Interval::from_secs((1 << 31) - 2), "{measurement:?}");
        }
    }

    #[test]
    fn the_request_shows_nothing_but_its_random_number() {
        let request = Request { nonce: u64::MAX, sent_at: NtpTimestamp::from_bits(0x1234) };

        let bytes = request.to_bytes();

        assert_eq!(bytes[0], 0x23);
        assert_eq!(bytes[1..40], [0; 39]);
        assert_eq!(bytes[40..], [0xff; 8]);
    }

    #[test]
    fn a_million_random_packets_are_not_accepted_without_the_random_number() {
        let case = Case { sent_at: 0xeeae_3b96 << 32, offset: 0, out: SECOND, kept: SECOND, back: SECOND };
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        // SplitMix64: repeatable, and good enough for bytes that must be refused.
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        for number in 0..1_000_000 {
            let mut packet = [0; 72];
            packet.chunks_exact_mut(8).for_each(|eight| eight.copy_from_slice(&random().to_be_bytes()));
            if number % 2 == 0 {
                // Nothing but the origin is wrong with every second one.
                packet[..24].copy_from_slice(&case.answer()[..24]);
                packet[32..48].copy_from_slice(&case.answer()[32..]);
            }
            let length = if number % 2 == 0 { PACKET_BYTES } else { (random() % 73) as usize };

            assert_eq!(case.request().judge(&packet[..length], case.received_at()), Verdict::Ignored);
        }
    }

    #[test]
    fn a_kiss_is_shown_as_text_only_when_it_is_text() {
        assert_eq!(Refusal::KissOfDeath(KissCode(*b"RATE")).to_string(), "kod:RATE");
        assert_eq!(Refusal::KissOfDeath(KissCode(*b"A\n\x1b[")).to_string(), "kod:0x410a1b5b");
    }
}
