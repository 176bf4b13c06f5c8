//! Longest common subsequences of token ids, for ROUGE.

/// The table of lengths of a longest common subsequence, kept between calls.
#[derive(Default)]
pub(super) struct LcsTable {
    cells: Vec<u32>,
    width: usize,
}

impl LcsTable {
    /// Fills the table for the prefixes of `reference` and `candidate`; gives the length for the whole.
    pub(super) fn fill(&mut self, reference: &[u32], candidate: &[u32]) -> usize {
        self.width = candidate.len() + 1;
        self.cells.clear();
        self.cells.resize((reference.len() + 1) * self.width, 0);
        for (i, token) in reference.iter().enumerate() {
            let (above, row) = self.cells[i * self.width..(i + 2) * self.width].split_at_mut(self.width);
            let mut left = 0;
            for (j, other) in candidate.iter().enumerate() {
                left = if token == other { above[j] + 1 } else { left.max(above[j + 1]) };
                row[j + 1] = left;
            }
        }
        self.at(reference.len(), candidate.len()) as usize
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }

    /// Marks in `hit` the positions of `reference` in one longest common subsequence: the one that rouge-score's backtracking finds.
    pub(super) fn mark(&mut self, reference: &[u32], candidate: &[u32], hit: &mut [bool]) {
        self.fill(reference, candidate);
        let (mut i, mut j) = (reference.len(), candidate.len());
        while i > 0 && j > 0 {
            if reference[i - 1] == candidate[j - 1] {
                hit[i - 1] = true;
                i -= 1;
                j -= 1;
            } else if self.at(i, j - 1) > self.at(i - 1, j) {
                j -= 1;
            } else {
                i -= 1;
            }
        }
    }
}
