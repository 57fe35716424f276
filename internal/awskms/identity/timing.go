package identity

import (
	"cmp"
	"time"
)

// Timing is when an Identity looks something up, and how long it waits for what. A field
// that is zero has the time that its comment says.
type Timing struct {
	// RenewWindow is the longest time before their end in which credentials are renewed.
	// 0: 5 minutes
	RenewWindow time.Duration
	// LeastPause and MostPause bound the time between two look-ups in that window.
	// 0: 2 and 30 seconds
	LeastPause, MostPause time.Duration
	// FailurePause is the longest time between two look-ups while there is nothing to
	// sign with. It begins with LeastPause. 0: 5 seconds
	FailurePause time.Duration
	// Patience is how long one look-up is waited for before another begins beside it: a
	// request may have been swallowed, and a slow source may still answer. 0: 4 seconds
	Patience time.Duration
	// CrowdedPause is the time between two look-ups while many that were left behind
	// still run. 0: 10 minutes
	CrowdedPause time.Duration

	// Look is the time between two looks at the files that settings and credentials were
	// read from; and that for which other credentials which were refused, and have worked
	// before, are not tried. 0: 15 seconds
	Look        time.Duration
	RefusedLook time.Duration // the least between two because calls are refused; 0: 2 seconds

	// FirstDoubt and MostDoubt are the shortest and the longest time between two look-ups
	// because KMS refuses who is calling. 0: 30 seconds and 10 minutes
	FirstDoubt, MostDoubt time.Duration

	LookUp time.Duration // bounds a look-up, and what comes later is dropped; 0: 30 seconds
	Files  time.Duration // bounds the look at files that it begins with; 0: 3 seconds
	// Reload bounds the reading of settings where those before are there to go on with.
	// 0: 5 seconds
	Reload time.Duration
}

func (t Timing) orUsual() Timing {
	return Timing{
		RenewWindow:  cmp.Or(t.RenewWindow, 5*time.Minute),
		LeastPause:   cmp.Or(t.LeastPause, 2*time.Second),
		MostPause:    cmp.Or(t.MostPause, 30*time.Second),
		FailurePause: cmp.Or(t.FailurePause, 5*time.Second),
		Patience:     cmp.Or(t.Patience, 4*time.Second),
		CrowdedPause: cmp.Or(t.CrowdedPause, 10*time.Minute),
		Look:         cmp.Or(t.Look, 15*time.Second),
		RefusedLook:  cmp.Or(t.RefusedLook, 2*time.Second),
		FirstDoubt:   cmp.Or(t.FirstDoubt, 30*time.Second),
		MostDoubt:    cmp.Or(t.MostDoubt, 10*time.Minute),
		LookUp:       cmp.Or(t.LookUp, 30*time.Second),
		Files:        cmp.Or(t.Files, 3*time.Second),
		Reload:       cmp.Or(t.Reload, 5*time.Second),
	}
}
