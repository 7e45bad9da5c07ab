//! The reads and snapshots that are alive, so that nothing they see is dropped.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::types::{ReadView, SeqNo};

/// The live views of one shard.
#[derive(Default)]
pub(crate) struct Views {
    live: RefCell<Vec<(u64, ReadView)>>,
    next_id: Cell<u64>,
    newest: Cell<SeqNo>,
}

/// Keeps one view alive until it is dropped.
pub(crate) struct ViewGuard {
    views: Rc<Views>,
    id: u64,
    view: ReadView,
}

impl Views {
    pub(crate) fn register(self: &Rc<Self>, view: ReadView) -> ViewGuard {
        let id = self.next_id.replace(self.next_id.get() + 1);
        if !mutant!(SnapshotNotPinned) {
            self.live.borrow_mut().push((id, view));
            self.newest.set(self.newest.get().max(view.upper));
        }
        ViewGuard { views: Rc::clone(self), id, view }
    }

    /// Entries with greater sequence numbers are seen by no live view, only by reads of the latest state.
    #[inline]
    pub(crate) fn newest(&self) -> SeqNo {
        self.newest.get()
    }

    /// All live views. What is dropped must be invisible in each, and in [`ReadView::LATEST`].
    pub(crate) fn live(&self) -> Vec<ReadView> {
        self.live.borrow().iter().map(|(_, view)| *view).collect()
    }
}

impl ViewGuard {
    pub(crate) fn view(&self) -> &ReadView {
        &self.view
    }
}

impl Drop for ViewGuard {
    fn drop(&mut self) {
        let mut live = self.views.live.borrow_mut();
        live.retain(|(id, _)| *id != self.id);
        self.views.newest.set(live.iter().map(|(_, view)| view.upper).max().unwrap_or_default());
    }
}
