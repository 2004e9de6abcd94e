//! `vigie fleet …`, and what `query -t` and `alerts -t` share with it.

pub(crate) mod profile;
