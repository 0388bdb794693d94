//! An allocator for policies that answer in microseconds: small blocks are kept and given out again.
//!
//! A hook of a few hundred instructions that takes its call as strings and lists spends most of its time in the allocator of the
//! standard library, which joins what is given back with its neighbours. Here each size has its own list of blocks, as in Bonwick's
//! slab allocator (USENIX 1994): taking and giving back is a pop and a push. A block of one size never serves another, so a policy
//! holds the most that it ever needed of each.
//!
//! Its blocks are the standard library's, so what C code takes through [`cabi_realloc`] it may give back in its own way.

use std::{
    alloc::{self, GlobalAlloc, Layout, System},
    cell::Cell,
    ptr,
};

/// The smallest size is 16 bytes, and each is twice the one before.
const SMALLEST_SHIFT: u32 = 4;
const SIZES: usize = 8;

/// What every block is aligned to. What needs more is the system's.
const ALIGNMENT: usize = 8;

/// A block that nobody holds; in it lies the next one of its size.
struct Free {
    next: *mut Free,
}

/// Blocks of 16 bytes to 2 KiB by size; all else is the standard library's allocator.
pub struct SizedBlocks([Cell<*mut Free>; SIZES]);

// SAFETY: without threads nothing is shared; a component's instance has one.
#[cfg(target_family = "wasm")]
unsafe impl Sync for SizedBlocks {}

impl Default for SizedBlocks {
    fn default() -> Self {
        Self::new()
    }
}

impl SizedBlocks {
    /// None are there yet.
    pub const fn new() -> Self {
        Self([const { Cell::new(ptr::null_mut()) }; SIZES])
    }

    /// The list of the blocks that fit, and their layout.
    fn blocks(&self, layout: Layout) -> Option<(&Cell<*mut Free>, Layout)> {
        if layout.align() > ALIGNMENT {
            return None;
        }
        let shift = (usize::BITS - layout.size().saturating_sub(1).leading_zeros()).max(SMALLEST_SHIFT);
        let list = self.0.get(usize::try_from(shift - SMALLEST_SHIFT).ok()?)?;
        Some((list, Layout::from_size_align(1 << shift, ALIGNMENT).ok()?))
    }
}

// SAFETY: a block is the system's, of its size's layout, and is given to nobody else until it is given back.
unsafe impl GlobalAlloc for SizedBlocks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's own promise; a block's layout is never empty.
        let anew = |layout| unsafe { System.alloc(layout) };
        let Some((list, of_block)) = self.blocks(layout) else { return anew(layout) };
        let first = list.get();
        if first.is_null() {
            return anew(of_block);
        }
        // SAFETY: what lies in a list was put there by `dealloc`, which wrote it.
        list.set(unsafe { (*first).next });
        first.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((list, _)) = self.blocks(layout) else {
            // SAFETY: the caller's own promise: `alloc` took it from there with this layout.
            return unsafe { System.dealloc(block, layout) };
        };
        let free: *mut Free = block.cast();
        // SAFETY: it is large enough and aligned for a pointer, and its holder is done with it.
        unsafe { free.write(Free { next: list.get() }) };
        list.set(free);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size fits the alignment.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (self.blocks(layout), self.blocks(larger)) {
            (Some((_, had)), Some((_, needed))) if had == needed => return block,
            // SAFETY: the caller's own promise: `alloc` took it from there with this layout.
            (None, None) => return unsafe { System.realloc(block, layout, size) },
            _ => {}
        }
        // SAFETY: as the trait's own: the new block holds what fits of the old one, which goes back with its layout.
        unsafe {
            let moved = self.alloc(larger);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// What the host calls for memory in which it puts strings and lists; see the canonical ABI of the component model. The C library
/// brings one of its own: what comes from there is too small for the list on which it is put when it is given back.
///
/// # Safety
/// As [`GlobalAlloc::realloc`]; `old_size` is 0 where there is nothing yet.
pub unsafe fn cabi_realloc(block: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return ptr::without_provenance_mut(align);
    }
    let Ok(layout) = Layout::from_size_align(old_size.max(size), align) else { std::process::abort() };
    // SAFETY: the caller's own promise; neither size is 0 where it is asked for.
    let given = unsafe {
        match old_size {
            0 => alloc::alloc(layout),
            old => alloc::realloc(block, Layout::from_size_align_unchecked(old, align), size),
        }
    };
    if given.is_null() { std::process::abort() } else { given }
}

/// Lets a policy take its memory from [`SizedBlocks`](crate::allocator::SizedBlocks), what the host puts there too.
#[macro_export]
macro_rules! keep_small_blocks {
    () => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            #[global_allocator]
            static ALLOCATOR: $crate::allocator::SizedBlocks = $crate::allocator::SizedBlocks::new();

            // SAFETY: no other function of this name is strong: the C library's and that of the bindings give way.
            #[unsafe(export_name = "cabi_realloc")]
            unsafe extern "C" fn cabi_realloc(block: *mut u8, old: usize, align: usize, size: usize) -> *mut u8 {
                // SAFETY: the host's promise.
                unsafe { $crate::allocator::cabi_realloc(block, old, align, size) }
            }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn what_is_given_back_serves_the_next_of_its_size_and_no_other() {
        let blocks = SizedBlocks::new();
        // SAFETY: each is written within its layout, and given back once with it.
        unsafe {
            let first = blocks.alloc(layout(17, 1));
            first.write_bytes(1, 17);
            blocks.dealloc(first, layout(17, 1));
            let (larger, smaller) = (blocks.alloc(layout(33, 8)), blocks.alloc(layout(16, 8)));
            assert!(larger != first && smaller != first);
            assert_eq!(blocks.alloc(layout(32, 8)), first);
            assert_ne!(blocks.alloc(layout(32, 8)), first, "it is held");
            let (zero, huge) = (blocks.alloc_zeroed(layout(32, 8)), blocks.alloc(layout(5000, 8)));
            assert_eq!(std::slice::from_raw_parts(zero, 32), [0; 32]);
            huge.write_bytes(1, 5000);
            blocks.dealloc(huge, layout(5000, 8));
            let aligned = blocks.alloc(layout(64, 64));
            assert_eq!(aligned.align_offset(64), 0);
            blocks.dealloc(aligned, layout(64, 64));
        }
    }

    #[test]
    fn what_grows_keeps_its_bytes_beyond_the_largest_size() {
        let blocks = SizedBlocks::new();
        let (mut size, bytes) = (1, [1, 2, 3, 4, 5, 6, 7, 8]);
        // SAFETY: it is read and written within its layout, and passed on with the one that it has.
        unsafe {
            let mut block = blocks.alloc(layout(8, 1));
            block.copy_from(bytes.as_ptr(), 8);
            let mut held = layout(8, 1);
            while size < 10_000 {
                size = held.size() * 3 / 2 + 1;
                block = blocks.realloc(block, held, size);
                held = layout(size, 1);
                block.add(size - 1).write(9);
                assert_eq!(std::slice::from_raw_parts(block, 8), bytes, "{size}");
            }
            blocks.dealloc(block, held);
        }
    }

    #[test]
    fn every_size_has_a_block_that_holds_it() {
        let blocks = SizedBlocks::new();
        for size in 1..=2048 {
            let (_, of_block) = blocks.blocks(layout(size, 8)).expect("a size");
            assert!(of_block.size() >= size && of_block.size() < 2 * size.max(16), "{size}");
        }
        assert!(blocks.blocks(layout(2049, 8)).is_none() && blocks.blocks(layout(16, 16)).is_none());
    }
}
