use std::collections::VecDeque;

/// What a test has scripted for one kind of call about things of one kind.
pub(super) struct Scripts<T: ?Sized, S> {
    next: VecDeque<S>,
    next_where: Vec<(Matcher<T>, S)>,
    every_where: Vec<(Matcher<T>, S)>,
}

pub(super) type Matcher<T> = Box<dyn Fn(&T) -> bool + Send>;

impl<T: ?Sized, S: Clone> Scripts<T, S> {
    pub(super) fn next(&mut self, script: S) {
        self.next.push_back(script);
    }

    pub(super) fn next_where(&mut self, matches: impl Fn(&T) -> bool + Send + 'static, script: S) {
        self.next_where.push((Box::new(matches), script));
    }

    pub(super) fn every_where(&mut self, matches: impl Fn(&T) -> bool + Send + 'static, script: S) {
        self.every_where.push((Box::new(matches), script));
    }

    /// What was scripted for this one: for the next such, else for the next, else for every such.
    pub(super) fn take(&mut self, thing: &T) -> Option<S> {
        if let Some(index) = self.next_where.iter().position(|(matches, _)| matches(thing)) {
            return Some(self.next_where.remove(index).1);
        }
        self.next.pop_front().or_else(|| {
            let every = self.every_where.iter().find(|(matches, _)| matches(thing));
            every.map(|(_, script)| script.clone())
        })
    }
}

impl<T: ?Sized, S> Default for Scripts<T, S> {
    fn default() -> Self {
        Self { next: VecDeque::new(), next_where: Vec::new(), every_where: Vec::new() }
    }
}
