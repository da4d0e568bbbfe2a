//! The metric groups that workers keep current in Redis.

/// Defines [`MetricGroup`] from one row for each group: variant, name, summary.
macro_rules! metric_groups {
    ($($group:ident: $name:literal, $summary:literal;)+) => {
        /// A group of figures. Redis holds one hash for each group and host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum MetricGroup {
            $(#[doc = $summary] $group,)+
        }

        impl MetricGroup {
            /// Every group, in display order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$group),+];

            /// The group's name, as in keys and in the names of actions.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$group => $name,)+ }
            }

            /// The help line of the action `collect-NAME`.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$group => $summary,)+ }
            }
        }
    };
}

metric_groups! {
    Cpu: "cpu", "CPU use in percent, by two readings";
    Memory: "memory", "Memory and swap";
    Load: "load", "Load averages, tasks, uptime";
    Disk: "disk", "Space and inodes of every mounted disk";
    Network: "network", "Traffic of every network interface";
}
