//! Values in the reactive system's arena: copied freely, and there for as long as what they were made
//! in.
//!
//! Leptos compiles a signal anew for every type that is in one, which weighs 5 KB each. All of these
//! are signals of one type, which knows what it holds when it runs.

use std::{any::Any, cell::RefCell, marker::PhantomData, rc::Rc};

use leptos::prelude::*;

/// A `RefCell<T>`.
type Erased = Rc<dyn Any>;

/// A value that is followed: what has read it runs again once it has changed.
pub(crate) struct Live<T> {
    signal: RwSignal<Erased, LocalStorage>,
    holds: PhantomData<fn() -> T>,
}

/// A value that is only kept.
pub(crate) struct Kept<T> {
    stored: StoredValue<Erased, LocalStorage>,
    holds: PhantomData<fn() -> T>,
}

/// Where values are made that outlive the screens that make them.
#[derive(Clone, Copy)]
pub(crate) struct Root(Kept<Owner>);

impl Root {
    /// What is running now.
    pub(crate) fn current() -> Self {
        let root = Owner::current().expect("the page runs in the reactive system");
        Self(Kept::new(root))
    }

    /// Runs `make` so that the values it makes live as long as the root.
    pub(crate) fn keep<T>(self, make: impl FnOnce() -> T) -> T {
        self.0.with_value(|root| root.with(make))
    }
}

impl<T: 'static> Live<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            signal: RwSignal::new_local(erased(value)),
            holds: PhantomData,
        }
    }

    pub(crate) fn with<U>(self, read: impl FnOnce(&T) -> U) -> U {
        read(&cell(&self.signal.get()).borrow())
    }

    pub(crate) fn with_untracked<U>(self, read: impl FnOnce(&T) -> U) -> U {
        read(&cell(&self.signal.get_untracked()).borrow())
    }

    pub(crate) fn get(self) -> T
    where
        T: Clone,
    {
        self.with(T::clone)
    }

    pub(crate) fn get_untracked(self) -> T
    where
        T: Clone,
    {
        self.with_untracked(T::clone)
    }

    /// `None`: what it was made in is gone.
    pub(crate) fn try_get_untracked(self) -> Option<T>
    where
        T: Clone,
    {
        let value = self.signal.try_get_untracked()?;
        Some(cell::<T>(&value).borrow().clone())
    }

    /// Does nothing where what it was made in is gone.
    pub(crate) fn update(self, change: impl FnOnce(&mut T)) {
        if let Some(value) = self.signal.try_get_untracked() {
            change(&mut cell(&value).borrow_mut());
            self.signal.notify();
        }
    }

    pub(crate) fn set(self, value: T) {
        let _ = self.try_set(value);
    }

    /// Gives `value` back where what it was made in is gone.
    pub(crate) fn try_set(self, value: T) -> Option<T> {
        let Some(held) = self.signal.try_get_untracked() else {
            return Some(value);
        };
        cell(&held).replace(value);
        self.signal.notify();
        None
    }
}

impl<T: 'static> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            stored: StoredValue::new_local(erased(value)),
            holds: PhantomData,
        }
    }

    /// `None`: what it was made in is gone.
    pub(crate) fn try_update_value<U>(self, change: impl FnOnce(&mut T) -> U) -> Option<U> {
        let value = self.stored.try_get_value()?;
        let changed = change(&mut cell(&value).borrow_mut());
        Some(changed)
    }

    pub(crate) fn try_with_value<U>(self, read: impl FnOnce(&T) -> U) -> Option<U> {
        let value = self.stored.try_get_value()?;
        let read = read(&cell(&value).borrow());
        Some(read)
    }

    pub(crate) fn update_value(self, change: impl FnOnce(&mut T)) {
        let _ = self.try_update_value(change);
    }

    pub(crate) fn set_value(self, value: T) {
        if let Some(held) = self.stored.try_get_value() {
            cell(&held).replace(value);
        }
    }

    pub(crate) fn with_value<U>(self, read: impl FnOnce(&T) -> U) -> U {
        read(&cell(&self.stored.get_value()).borrow())
    }

    pub(crate) fn get_value(self) -> T
    where
        T: Clone,
    {
        self.with_value(T::clone)
    }
}

fn erased<T: 'static>(value: T) -> Erased {
    Rc::new(RefCell::new(value))
}

fn cell<T: 'static>(erased: &Erased) -> &RefCell<T> {
    erased.downcast_ref().expect("a value keeps its type")
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Live<T> {}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Kept<T> {}
