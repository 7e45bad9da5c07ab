//! A panic of the engine under test is a finding.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// What this thread's panic says, while one is expected.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What the closure returns, or what its panic says.
pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let expected = PANIC.with_borrow_mut(|kept| match kept {
                Some(text) if text.is_empty() => {
                    *text = info.to_string();
                    true
                }
                Some(_) => true,
                None => false,
            });
            if !expected {
                usual(info);
            }
        }));
    });
    PANIC.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(work));
    let text = PANIC.take().unwrap_or_default();
    result.map_err(|_| text)
}
