//! "Did you mean": the nearest known name to a mistyped one.

/// The candidate most like `name`, if any is like enough to be worth suggesting.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |candidate: &str| strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A sentence fragment that offers the way out: the nearest name, or the whole list where none is near.
pub fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(name, candidates.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<String> = candidates.into_iter().map(|c| format!("`{c}`")).collect();
            format!("known: {}", all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_near_name_and_lists_when_none_is_near() {
        assert_eq!(nearest("epoch", ["epochs", "batch_size"]), Some("epochs"));
        assert_eq!(hint("warmup_step", ["warmup_steps", "lr"]), "did you mean `warmup_steps`?");
        assert_eq!(hint("zzz", ["lr", "seed"]), "known: `lr`, `seed`");
    }
}
