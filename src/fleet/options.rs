//! What a question to the fleet takes on the command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use vigie_protocol::names::ActionId;

use crate::durations;

/// Where the fleet's file is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FleetFile {
    /// The file that defines how to reach the fleet [default: $VIGIE_FLEET, or fleet.toml in ~/.config/vigie]
    #[arg(long = "fleet", value_name = "FILE", help_heading = "Fleet")]
    pub(crate) fleet_file: Option<PathBuf>,
}

/// Whom to ask, and how to wait for the answers.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Fleet")]
pub(crate) struct AskOptions {
    /// Query every agent of the fleet that matches this expression, such as 'tag.env == "prod"', or this saved
    /// target, such as @prod; see docs/targets.md
    #[arg(long, short = 't', value_name = "EXPR")]
    pub(crate) target: Option<String>,

    #[command(flatten)]
    pub(crate) file: FleetFile,

    #[command(flatten)]
    pub(crate) waiting: WaitOptions,

    /// Query only this number or percentage of the matching agents, online agents first
    #[arg(long, value_name = "N|N%", requires = "target")]
    pub(crate) limit: Option<Share>,

    /// Query only agents that found something in this earlier query; may be repeated
    #[arg(long, value_name = "ID", requires = "target", conflicts_with = "every")]
    pub(crate) found_in: Vec<ActionId>,

    /// Query this many agents at a time; the next batch starts when these have answered
    #[arg(long, value_name = "N", requires = "target", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,

    /// Pause between batches
    #[arg(long, value_name = "TIME", requires = "batch", value_parser = durations::positive)]
    pub(crate) pause: Option<Duration>,

    /// How long offline agents may still run the action when they return [default: 1h]
    #[arg(long, value_name = "TIME", requires = "target", value_parser = durations::positive)]
    pub(crate) expires: Option<Duration>,

    /// Make it a standing query: agents repeat it at this interval until --expires, even while the broker is
    /// unreachable, and send only the differences; see `vigie fleet standing`
    #[arg(long, value_name = "TIME", requires_all = ["target", "expires"], conflicts_with_all = ["limit", "batch"],
        value_parser = durations::positive)]
    pub(crate) every: Option<Duration>,

    /// Sign with this SSH private key, or give a .pub file to use that key from ssh-agent [default:
    /// signing_key in the fleet file]
    #[arg(long, value_name = "FILE", requires = "target")]
    pub(crate) key: Option<PathBuf>,

    /// Reason for the query, recorded for audits
    #[arg(long, value_name = "TEXT", requires = "target")]
    pub(crate) purpose: Option<String>,
}

/// How to wait for answers, and which to print.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WaitOptions {
    /// When to stop waiting: after a time, after N percent of the online agents answered, after all agents
    /// answered (including offline ones), or none for not at all
    #[arg(long, value_name = "TIME|N%|all|none", default_value = "1m", help_heading = "Fleet")]
    pub(crate) wait: Wait,

    /// Which answers to print
    #[arg(long, value_name = "WHICH", default_value = "all", help_heading = "Fleet")]
    pub(crate) show: Show,

    /// Print full results below each table row; --json always prints full results
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
                    .map_err(|_| "use a time such as 30s, a percentage such as 95%, all or none".to_owned()),
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
            .ok_or_else(|| "use a number such as 10, or a percentage such as 10%".to_owned())
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
    /// Agents that found something.
    Found,
    /// Agents that found nothing.
    Notfound,
    /// Agents that found nothing but did not examine everything.
    Notknown,
    /// Agents that failed or refused.
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
