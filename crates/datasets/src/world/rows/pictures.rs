//! Pictures of shapes, as lists of greys.

use super::super::World;
use super::super::pictures::{Canvas, Picture, Shape};
use super::{Counts, Result, SplitRows, draw_splits};
use crate::tasks::classification::LabelledTexts;

/// Rows and columns of a picture.
const SIDE: usize = 6;

/// Pictures of 6 x 6 greys from 0 to 9 and the number of the shape they show, all equally often. None of the pixels is drawn anew with
/// difficulty 0, a tenth with 1, a fifth with 2, three tenths with 3.
pub(crate) fn pictures(world: &World, counts: Counts, difficulty: u8) -> Result<SplitRows<LabelledTexts>> {
    let canvas = Canvas { side: SIDE, levels: 10, noise: 10 * usize::from(difficulty) };
    draw_splits(world, "pictures", counts, |draws, id, index| {
        let label = index % Shape::ALL.len();
        let picture = Picture::draw(draws, Shape::ALL[label], canvas);
        let greys: Vec<String> = picture.rows.iter().flatten().map(usize::to_string).collect();
        let text = greys.join(" ");
        (text.clone(), LabelledTexts { id, texts: vec![text], label })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::COUNTS;
    use super::*;

    #[test]
    fn shapes_are_dealt_evenly_and_pictures_have_all_their_pixels() {
        let world = World::new(0);
        for difficulty in 0..=super::super::MOST_DIFFICULT {
            let rows = pictures(&world, COUNTS, difficulty).unwrap().train;
            assert!(rows.iter().all(|row| row.texts[0].split(' ').count() == SIDE * SIDE));
            let count = |label: usize| rows.iter().filter(|row| row.label == label).count();
            assert!((0..Shape::ALL.len()).all(|label| (187..=188).contains(&count(label))));
        }
    }
}
