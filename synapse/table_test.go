package synapse_test

import (
	"slices"
	"testing"

	"lifeboat.im/lifeboat/synapse"
)

func TestTablesAreSortedAndFresh(t *testing.T) {
	a := synapse.Tables()
	if !slices.IsSortedFunc(a, func(x, y synapse.Table) int {
		if x.Name < y.Name {
			return -1
		}
		return 1
	}) {
		t.Error("tables are not ascending by name, or a name is there twice")
	}
	for i := range a {
		clear(a[i].Room)
	}
	if r, ok := synapse.Named("rooms"); !ok || !slices.Equal(r.Room, []string{"room_id"}) {
		t.Errorf("rooms after a caller changed its copy: %+v, %t", r, ok)
	}
}
