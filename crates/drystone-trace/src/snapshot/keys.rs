//! The dictionary keys of a snapshot that mean something here.

use crate::arena::StrId;

macro_rules! keys {
    ($($key:ident = $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Key {
            /// A string that was not looked at yet.
            Unseen,
            /// No key of ours.
            Other,
            $($key,)*
        }

        impl Key {
            fn of(name: &[u8]) -> Key {
                $(if name == $name.as_bytes() {
                    return Key::$key;
                })*
                Key::Other
            }

            pub(super) const fn name(self) -> &'static str {
                match self {
                    Key::Unseen | Key::Other => "?",
                    $(Key::$key => $name,)*
                }
            }
        }
    };
}

keys! {
    Segments = "segments",
    DeviceTraces = "device_traces",
    AllocatorSettings = "allocator_settings",
    Prelude = "drystone_prelude",
    Device = "device",
    Address = "address",
    TotalSize = "total_size",
    AllocatedSize = "allocated_size",
    ActiveSize = "active_size",
    RequestedSize = "requested_size",
    Stream = "stream",
    SegmentType = "segment_type",
    SegmentPoolId = "segment_pool_id",
    IsExpandable = "is_expandable",
    Blocks = "blocks",
    Frames = "frames",
    Size = "size",
    State = "state",
    Action = "action",
    Addr = "addr",
    DeviceFree = "device_free",
    TimeUs = "time_us",
    PoolId = "pool_id",
    History = "history",
    RealSize = "real_size",
    Filename = "filename",
    Line = "line",
    Name = "name",
}

/// The key that each string of a pickle is, found once a string: keys are shared by millions of
/// dictionaries.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    pub(super) fn new(strings: usize) -> Self {
        Keys(vec![Key::Unseen; strings])
    }

    pub(super) fn get(&mut self, id: StrId, name: &[u8]) -> Key {
        let slot = &mut self.0[id.index()];
        if *slot == Key::Unseen {
            *slot = Key::of(name);
        }
        *slot
    }
}
