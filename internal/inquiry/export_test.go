package inquiry

// Steps returns the whole way.
func (w *Way) Steps() []Step { return w.steps }
