//! What a question to the fleet takes on the command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::durations;

/// Where the fleet's file is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FleetFile {
    /// The file that says how to reach the fleet [default: $VIGIE_FLEET, or fleet.toml in ~/.config/vigie]
    #[arg(long = "fleet", value_name = "FILE", help_heading = "Fleet")]
    pub(crate) fleet_file: Option<PathBuf>,
}

/// Whom to ask, and how to wait for the answers.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Fleet")]
pub(crate) struct AskOptions {
    /// Ask every agent of the fleet for which this is true, such as 'tag.env == "prod"'; see docs/targets.md
    #[arg(long, short = 't', value_name = "EXPR")]
    pub(crate) target: Option<String>,

    #[command(flatten)]
    pub(crate) file: FleetFile,

    #[command(flatten)]
    pub(crate) waiting: WaitOptions,

    /// Ask only so many of them, or so many in a hundred; those that are online first
    #[arg(long, value_name = "N|N%", requires = "target")]
    pub(crate) limit: Option<Share>,

    /// Ask so many at a time, and go on with the next when these have answered
    #[arg(long, value_name = "N", requires = "target", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,

    /// Pause between two batches
    #[arg(long, value_name = "TIME", requires = "batch", value_parser = durations::positive)]
    pub(crate) pause: Option<Duration>,

    /// How long agents that are away may still run it when they return [default: 1h]
    #[arg(long, value_name = "TIME", requires = "target", value_parser = durations::positive)]
    pub(crate) expires: Option<Duration>,

    /// Have them ask it again and again at this interval, also while the broker is away, until --expires is over, and send
    /// what differs; then see `vigie fleet standing`
    #[arg(long, value_name = "TIME", requires_all = ["target", "expires"], conflicts_with_all = ["limit", "batch"],
        value_parser = durations::positive)]
    pub(crate) every: Option<Duration>,

    /// Sign with this SSH key, or the key of this .pub file in ssh-agent [default: signing_key of the fleet's file]
    #[arg(long, value_name = "FILE", requires = "target")]
    pub(crate) key: Option<PathBuf>,

    /// What it is for, for those who audit
    #[arg(long, value_name = "TEXT", requires = "target")]
    pub(crate) purpose: Option<String>,
}

/// How to wait for answers, and which to print.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WaitOptions {
    /// Until when to wait: a time, so many in a hundred of those online, all (also those offline), or none
    #[arg(long, value_name = "TIME|N%|all|none", default_value = "1m", help_heading = "Fleet")]
    pub(crate) wait: Wait,

    /// Which answers to print
    #[arg(long, value_name = "WHICH", default_value = "all", help_heading = "Fleet")]
    pub(crate) show: Show,

    /// Print whole results below the table's lines; with --json they are always whole
    #[arg(long, help_heading = "Fleet")]
    pub(crate) details: bool,
}

/// Until when answers are waited for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wait {
    /// Until all that are online have answered, and no longer than this.
    Time(Duration),
    /// Until so many in a hundred of those online have answered.
    Share(f64),
    /// Until all have answered, also those that are offline.
    All,
    /// Not at all.
    None,
}

impl Default for Wait {
    fn default() -> Self {
        Self::Time(Duration::from_secs(60))
    }
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => match percent(text) {
                Some(share) => Ok(Self::Share(share)),
                None => durations::positive(text)
                    .map(Self::Time)
                    .map_err(|_| "write a time such as 30s, a share such as 95%, all or none".to_owned()),
            },
        }
    }
}

/// So many, or so many in a hundred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Share {
    /// So many.
    Count(usize),
    /// So many in a hundred.
    Percent(f64),
}

impl Share {
    /// How many of `all` it is; a share is rounded up, so that it is never nobody.
    pub(crate) fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => count.min(all),
            Self::Percent(percent) => {
                #[expect(clippy::cast_precision_loss, reason = "a fleet is far below 2^52")]
                let share = (all as f64 * percent / 100.0).ceil();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between zero and all"
                )]
                let share = share as usize;
                share.min(all)
            }
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        percent(text)
            .map(Self::Percent)
            .or_else(|| text.parse().ok().filter(|&count| count > 0).map(Self::Count))
            .ok_or_else(|| "write a number such as 10, or a share such as 10%".to_owned())
    }
}

fn percent(text: &str) -> Option<f64> {
    text.strip_suffix('%')?
        .trim()
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent) && *percent > 0.0)
}

/// Which answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Show {
    /// Those that found something.
    Found,
    /// Those that found nothing.
    Notfound,
    /// Those that found nothing, but did not examine everything.
    Notknown,
    /// Those that failed or were refused.
    Failed,
    /// All.
    #[default]
    All,
    /// None: who has not answered is what is wanted.
    #[value(skip)]
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_times_shares_or_words() {
        assert_eq!("30s".parse(), Ok(Wait::Time(Duration::from_secs(30))));
        assert_eq!("95%".parse(), Ok(Wait::Share(95.0)));
        assert_eq!("all".parse(), Ok(Wait::All));
        assert_eq!("none".parse(), Ok(Wait::None));
        for bad in ["", "5", "-1%", "0%", "101%", "nan%", "soon"] {
            assert!(bad.parse::<Wait>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_never_nobody_and_never_more_than_all() {
        assert_eq!(Share::Percent(10.0).of(412), 42);
        assert_eq!(Share::Percent(1.0).of(3), 1);
        assert_eq!(Share::Count(10).of(3), 3);
        assert_eq!(Share::Percent(100.0).of(0), 0);
        assert!("0".parse::<Share>().is_err());
    }
}
