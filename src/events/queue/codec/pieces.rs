//! A list that grows by pieces: growing moves nothing, and takes no more memory than what is added.

/// Items of a piece.
const PIECE: usize = 1024;

/// Items in the order in which they were added.
#[derive(Clone, Debug)]
pub(super) struct Pieces<T>(Vec<Vec<T>>);

// === impl Pieces ===

impl<T> Pieces<T> {
    /// Adds an item.
    pub(super) fn push(&mut self, item: T) {
        match self.0.last_mut() {
            Some(last) if last.len() < PIECE => last.push(item),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(item);
                self.0.push(piece);
            }
        }
    }

    /// All items, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// Removes the last items as long as `is_gone` says so.
    pub(super) fn pop_while(&mut self, is_gone: impl Fn(&T) -> bool) {
        while let Some(last) = self.0.last_mut() {
            while last.pop_if(|item| is_gone(item)).is_some() {}
            if !last.is_empty() {
                return;
            }
            self.0.pop();
        }
    }

    /// All items, in one piece.
    pub(super) fn into_vec(self) -> Vec<T> {
        let mut all = Vec::with_capacity(self.0.iter().map(Vec::len).sum());
        // Each piece is let go of as soon as it is copied.
        self.0.into_iter().for_each(|piece| all.extend(piece));
        all
    }
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_in_order_and_the_last_go_first() {
        let mut pieces = Pieces::default();
        let many = 3 * PIECE + 7;
        (0..many).for_each(|item| pieces.push(item));
        assert!(pieces.iter().copied().eq(0..many));
        for left in [2 * PIECE + 1, 2 * PIECE, PIECE - 1] {
            pieces.pop_while(|item| *item >= left);
            assert!(pieces.iter().copied().eq(0..left));
        }
        pieces.push(7);
        assert_eq!(pieces.clone().into_vec().len(), PIECE);
        pieces.pop_while(|_| true);
        assert_eq!(pieces.into_vec(), Vec::<usize>::new());
    }
}
