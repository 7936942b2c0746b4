//! The names of actions in a ring.

use crate::snapshot::Action;

const ACTIONS: [(Action, &str); 9] = [
    (Action::Alloc, "alloc"),
    (Action::FreeRequested, "free_requested"),
    (Action::FreeCompleted, "free_completed"),
    (Action::SegmentAlloc, "segment_alloc"),
    (Action::SegmentFree, "segment_free"),
    (Action::SegmentMap, "segment_map"),
    (Action::SegmentUnmap, "segment_unmap"),
    (Action::Snapshot, "snapshot"),
    (Action::OutOfMemory, "oom"),
];

/// The action of this name.
pub(super) fn action_of(name: &[u8]) -> Action {
    let found = ACTIONS.iter().find(|(_, known)| known.as_bytes() == name);
    found.map_or(Action::Unknown, |&(action, _)| action)
}

/// The name of an action.
pub(super) fn name_of(action: Action) -> &'static str {
    ACTIONS.iter().find(|&&(known, _)| known == action).map_or("unknown", |&(_, name)| name)
}
