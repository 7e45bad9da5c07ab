//! What a shard tells an audit of the extents.

use crate::error::{Error, Result};
use crate::shard::Shard;
use crate::testing::{Owner, References};

impl Shard {
    /// The extents that this shard refers to.
    pub(crate) fn references(&self) -> Result<References> {
        self.check_writable()?;
        let manifest = self.manifest.peek().as_ref().ok_or(Error::ReadOnly)?;
        let id = self.id.0;
        let mut held = vec![(Owner::Root(id), manifest.root_extent())];
        held.extend(manifest.log_extents().into_iter().map(|extent| (Owner::ManifestLog(id), extent)));
        held.extend(self.wal.extents().into_iter().map(|extent| (Owner::Wal(id), extent)));
        held.extend(self.volume.recycled().into_iter().map(|extent| (Owner::Recycled(id), extent)));
        for log in self.replayed.borrow().iter() {
            let first = log.extents().first().copied().unwrap_or_default();
            held.extend(log.extents().iter().map(|extent| (Owner::OldLog(first), *extent)));
        }
        for (id, file) in self.files.borrow().iter() {
            held.extend(file.extents().iter().map(|extent| (Owner::Sst(*id), *extent)));
        }
        let state = manifest.state();
        let ssts = state.ssts();
        let mut named: Vec<_> =
            ssts.iter().flat_map(|(id, meta)| meta.extents.iter().map(|extent| (Owner::Sst(*id), *extent))).collect();
        named.extend(state.wal.iter().map(|chain| match chain.end {
            None => (Owner::Wal(id), chain.head.extent),
            Some(_) => (Owner::OldLog(chain.head.extent), chain.head.extent),
        }));
        Ok(References { parts: self.volume.parts().clone(), held, named })
    }
}
