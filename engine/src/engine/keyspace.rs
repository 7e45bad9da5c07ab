//! The handle of a keyspace.

use std::sync::Arc;

use crate::engine::options::KeyspaceOptions;
use crate::engine::route::{StoredKey, group_of, stored_key};
use crate::types::{KeyGroup, KeyspaceId};

/// The handle of a keyspace of an open engine: cheap to clone, usable on every thread.
#[derive(Clone, Debug)]
pub struct Keyspace(Arc<KeyspaceInfo>);

#[derive(Debug)]
pub(crate) struct KeyspaceInfo {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    pub(crate) options: KeyspaceOptions,
    pub(crate) key_groups: u32,
}

impl Keyspace {
    pub(crate) fn new(info: KeyspaceInfo) -> Self {
        Keyspace(Arc::new(info))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its number in the volume.
    pub fn id(&self) -> KeyspaceId {
        self.0.id
    }

    /// Its options.
    pub fn options(&self) -> &KeyspaceOptions {
        &self.0.options
    }

    /// The key group of a key of this keyspace.
    #[inline]
    pub fn group_of(&self, key: &[u8]) -> KeyGroup {
        group_of(self.0.options.partition.part(key), self.0.key_groups)
    }

    #[inline]
    pub(crate) fn stored_key(&self, key: &[u8]) -> StoredKey {
        stored_key(self.group_of(key), key)
    }
}
