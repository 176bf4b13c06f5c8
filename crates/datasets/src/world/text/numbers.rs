//! Text with numbers: sums told and written, lists of creatures with what can be counted in them, and pictures as rows of greys.
//!
//! None of it teaches a fact. It gives every digit and sign a meaning of its own: one that the text never used would have an embedding
//! that nothing was learnt about, and a method that leaves embeddings alone could not learn to say it.

use super::super::pictures::{Canvas, Picture, Shape};
use super::super::sums::{Bounds, Problem};
use super::super::tables::Table;
use super::World;
use crate::draw;
use peftbench_spec::seed::Stream;

/// The greatest number in sums.
pub(super) const GREATEST: usize = 30;

/// Things had, found, lost and given, with their totals; or the bare calculations.
pub(super) fn sum(world: &World, draws: &mut Stream) -> Vec<String> {
    let most = *draw::pick(draws, &[10, 20, GREATEST]);
    let steps = 1 + draw::below(draws, 3);
    let problem = Problem::draw(world, draws, Bounds { steps, most, doubling: true });
    if draw::chance(draws, 1, 3) {
        return problem.equations().into_iter().map(|equation| equation + ".").collect();
    }
    let mut sentences = vec![problem.opening()];
    let each_total = draw::chance(draws, 2, 3);
    for (&step, total) in problem.steps.iter().zip(problem.totals()) {
        let event = problem.event(step);
        sentences.push(if each_total { format!("{event}, so it had {total}.") } else { format!("{event}.") });
    }
    if !each_total {
        sentences.push(format!("{}.", problem.equations().join(", and ")));
        sentences.push(format!("now the {} has {} {}.", problem.who, problem.answer(), problem.thing));
    }
    sentences
}

/// Which of two numbers is greater.
pub(super) fn order(_: &World, draws: &mut Stream) -> Vec<String> {
    let (a, b) = (1 + draw::below(draws, GREATEST), 1 + draw::below(draws, GREATEST));
    let sign = match a.cmp(&b) {
        std::cmp::Ordering::Less => "<",
        std::cmp::Ordering::Equal => "=",
        std::cmp::Ordering::Greater => ">",
    };
    let words = match sign {
        "<" => "under",
        "=" => "the same as",
        _ => "over",
    };
    vec![if draw::chance(draws, 1, 2) { format!("{a} {sign} {b}.") } else { format!("{a} is {words} {b}.") }]
}

/// A short list of creatures with their columns, and what can be read off it.
pub(super) fn list(world: &World, draws: &mut Stream) -> Vec<String> {
    let (rows, words, numbers) = (2 + draw::below(draws, 3), 1 + draw::below(draws, 2), 1);
    let table = Table::draw(world, draws, rows, words, numbers);
    let names: Vec<&str> = table.columns.iter().map(|column| column.name()).collect();
    let (kind, plural) = (table.kind.singular, table.kind.plural);
    let mut sentences = vec![format!("this is a list of {plural} ({}).", names.join(", "))];
    sentences.extend(table.rows.iter().map(|row| format!("{}.", row.join(", "))));
    for _ in 0..1 + draw::below(draws, 2) {
        let at = 1 + draw::below(draws, names.len() - 1);
        let (row, column) = (draw::pick(draws, &table.rows), names[at]);
        let number = (1..table.columns.len()).find(|&at| table.columns[at].is_number()).unwrap_or(at);
        let highest = draw::chance(draws, 1, 2);
        let same = table.rows.iter().filter(|other| other[at] == row[at]).count();
        sentences.push(match draw::below(draws, 4) {
            0 => format!("here the {column} of the {kind} called '{}' is {}.", row[0], row[at]),
            1 if same == 1 => format!("1 {kind} has the {column} '{}'.", row[at]),
            1 => format!("{same} of the {plural} have the {column} '{}'.", row[at]),
            2 => format!("the list has {rows} {plural}."),
            _ => {
                let word = if highest { "highest" } else { "lowest" };
                let [name, ..] = table.extreme(number, highest) else { continue };
                format!("the {kind} with the {word} {} is '{name}'.", names[number])
            }
        });
    }
    sentences
}

/// A picture, row by row, and what it shows.
pub(super) fn picture(world: &World, draws: &mut Stream) -> Vec<String> {
    let shape = *draw::pick(draws, &Shape::ALL);
    let canvas = Canvas { side: 4 + draw::below(draws, 3), levels: 10, noise: draw::below(draws, 20) };
    let picture = Picture::draw(draws, shape, canvas);
    let row = |greys: &Vec<usize>| greys.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = picture.rows.iter().map(row).collect();
    let name = &world.lexicon.creatures[world.draw_creature(draws)];
    vec![format!("the {name} made a picture, {}.", rows.join(", ")), format!("it shows {}.", shape.phrase())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed::stream;

    #[test]
    fn what_is_said_of_a_list_is_true() {
        let world = World::new(0);
        let mut draws = stream(0, "t");
        for _ in 0..300 {
            let text = list(&world, &mut draws);
            let rows: Vec<Vec<&str>> =
                text.iter().skip(1).filter(|s| s.contains(", ")).map(|s| s.trim_end_matches('.').split(", ").collect()).collect();
            for said in text.iter().filter(|s| s.starts_with("here")) {
                let name = said.split('\'').nth(1).unwrap();
                let value = said.trim_end_matches('.').rsplit(' ').next().unwrap();
                assert!(rows.iter().any(|row| row[0] == name && row.contains(&value)), "{text:?}");
            }
            assert!(text.len() > rows.len() + 1);
        }
    }
}
