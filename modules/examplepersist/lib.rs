//! Vigie's module examplepersist.
