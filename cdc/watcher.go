package cdc

type watcher struct{ s *Source }

func newWatcher(s *Source) *watcher { return &watcher{s: s} }
func (w *watcher) close()           {}
