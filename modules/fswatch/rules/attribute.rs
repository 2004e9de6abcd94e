//! What is compared of an object.

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Attribute {
    /// The kind of the object.
    Kind,
    /// What is in a file.
    Content,
    /// Bytes in a file.
    Size,
    /// Permission bits.
    Mode,
    /// The owner.
    Owner,
    /// The group.
    Group,
    /// When the content changed.
    ModificationTime,
    /// Where a symbolic link points.
    Target,
    /// Number of the inode (and of its device).
    Inode,
    /// Number of names.
    Links,
    /// Number of a device node.
    Device,
    /// Inode flags: immutable and the like.
    Flags,
    /// POSIX access control lists.
    Acl,
    /// File capabilities.
    Capabilities,
    /// The SELinux label.
    SelinuxLabel,
    /// All other extended attributes.
    ExtendedAttributes,
}

impl Attribute {
    /// All of them in their order, with their names in configuration and alerts.
    const TABLE: [(Self, &str); 16] = [
        (Self::Kind, "kind"),
        (Self::Content, "content"),
        (Self::Size, "size"),
        (Self::Mode, "mode"),
        (Self::Owner, "owner"),
        (Self::Group, "group"),
        (Self::ModificationTime, "modification_time"),
        (Self::Target, "target"),
        (Self::Inode, "inode"),
        (Self::Links, "links"),
        (Self::Device, "device"),
        (Self::Flags, "flags"),
        (Self::Acl, "acl"),
        (Self::Capabilities, "capabilities"),
        (Self::SelinuxLabel, "selinux_label"),
        (Self::ExtendedAttributes, "extended_attributes"),
    ];

    /// All of them.
    pub const ALL: [Self; 16] = {
        let mut all = [Self::Kind; 16];
        let mut index = 0;
        while index < all.len() {
            all[index] = Self::TABLE[index].0;
            index += 1;
        }
        all
    };

    /// The name in configuration and alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Finds an attribute by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.name().eq_ignore_ascii_case(name))
    }
}

/// A set of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(u32);

impl Attributes {
    /// None.
    pub const NONE: Self = Self(0);

    /// Every attribute.
    pub const ALL: Self = Self((1 << Attribute::ALL.len()) - 1);

    /// What is compared when nothing is said: all but the inode, which every atomic replacement changes.
    pub const DEFAULT: Self = Self::ALL.without(Attribute::Inode);

    /// The default without what is in a file.
    pub(crate) const METADATA: Self = Self::DEFAULT.without(Attribute::Content);

    /// This set and one attribute more.
    #[must_use]
    pub const fn with(self, attribute: Attribute) -> Self {
        Self(self.0 | 1 << attribute as u8)
    }

    /// This set without one attribute.
    #[must_use]
    pub const fn without(self, attribute: Attribute) -> Self {
        Self(self.0 & !(1 << attribute as u8))
    }

    /// Whether it is in the set.
    #[must_use]
    pub const fn contains(self, attribute: Attribute) -> bool {
        self.0 & 1 << attribute as u8 != 0
    }

    /// What is in one of the two sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The attributes of the set in their order.
    pub fn iter(self) -> impl Iterator<Item = Attribute> {
        Attribute::ALL.into_iter().filter(move |attribute| self.contains(*attribute))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_stands_in_its_own_line_of_the_table() {
        for (index, attribute) in Attribute::ALL.into_iter().enumerate() {
            assert_eq!(attribute as usize, index);
            assert_eq!(Attribute::from_name(attribute.name()), Some(attribute));
        }
        assert_eq!(Attributes::ALL.iter().count(), Attribute::ALL.len());
    }
}
