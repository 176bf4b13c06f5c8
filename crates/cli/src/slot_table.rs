//! Slots and tensors of a model for people: those that differ only in their layer on one line.

/// One slot or tensor.
pub struct Line {
    /// Path in the checkpoint.
    pub path: String,
    /// Layer index.
    pub layer: Option<usize>,
    /// What else is shown; only equal ones go together.
    pub details: Vec<String>,
    /// Scalars.
    pub scalars: u64,
}

/// Lines of one pattern.
pub struct Group {
    /// The path with `*` for the layer.
    pub pattern: String,
    /// The layers, as ranges; empty outside the layers.
    pub layers: String,
    /// What is shown of each.
    pub details: Vec<String>,
    /// How many there are.
    pub count: usize,
    /// Scalars of all together.
    pub scalars: u64,
}

/// Groups lines by pattern and details, in the order of first sight.
pub fn group(lines: &[Line]) -> Vec<Group> {
    let mut groups: Vec<(Group, Vec<usize>)> = Vec::new();
    for line in lines {
        let pattern = pattern(&line.path, line.layer);
        let known = groups.iter_mut().find(|(group, _)| group.pattern == pattern && group.details == line.details);
        let (group, layers) = match known {
            Some(known) => known,
            None => {
                let group = Group { pattern, layers: String::new(), details: line.details.clone(), count: 0, scalars: 0 };
                groups.push((group, Vec::new()));
                let last = groups.len() - 1;
                &mut groups[last]
            }
        };
        group.count += 1;
        group.scalars += line.scalars;
        layers.extend(line.layer);
    }
    groups.into_iter().map(|(group, layers)| Group { layers: ranges(&layers), ..group }).collect()
}

/// The path with `*` in place of the layer's number.
fn pattern(path: &str, layer: Option<usize>) -> String {
    let Some(layer) = layer else { return path.to_owned() };
    let number = layer.to_string();
    path.split('.').map(|segment| if segment == number { "*" } else { segment }).collect::<Vec<_>>().join(".")
}

/// `0,1,2,5` as `0-2,5`.
fn ranges(layers: &[usize]) -> String {
    let mut layers = layers.to_vec();
    layers.sort_unstable();
    layers.dedup();
    if layers.is_empty() { "-".to_owned() } else { peftbench_spec::LayerSelection::Indices(layers).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_one_shape_share_a_line() {
        let line = |layer: usize, shape: &str| Line {
            path: format!("backbone.layers.{layer}.mixer.in_proj"),
            layer: Some(layer),
            details: vec![shape.to_owned()],
            scalars: 10,
        };
        let head = Line { path: "lm_head".into(), layer: None, details: vec!["a".into()], scalars: 5 };
        let groups = group(&[line(0, "a"), line(1, "a"), line(2, "b"), line(3, "a"), head]);
        let found: Vec<_> = groups.iter().map(|g| (g.pattern.as_str(), g.layers.as_str(), g.count, g.scalars)).collect();
        let path = "backbone.layers.*.mixer.in_proj";
        assert_eq!(found, [(path, "0-1,3", 3, 30), (path, "2", 1, 10), ("lm_head", "-", 1, 5)]);
    }
}
