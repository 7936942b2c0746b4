//! The Drystone policy lab: replays traces through allocation policies and measures them.
