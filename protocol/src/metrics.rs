//! The groups of figures that workers keep current in Redis.

/// A group of figures, kept in one hash per host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Use of the processors, in percent of all of them.
    Cpu,
    /// Use of memory and swap, in bytes.
    Memory,
    /// Load averages, tasks and uptime.
    Load,
    /// How full each mounted file system is.
    Disk,
    /// Traffic of the network interfaces, in bytes.
    Network,
}

impl Group {
    /// Every group, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Memory, Self::Load, Self::Disk, Self::Network];

    /// The group's name, as in keys and in the names of actions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Load => "load",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }
}
