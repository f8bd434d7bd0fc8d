package mongostore

import "testing"

func TestHighestOf(t *testing.T) {
	for _, want := range []int64{0, 1, 2, 15, 16, 17, 255, 256, 257, 3201, 65535, 65536, 1_000_003, 1 << 33} {
		rounds := 0
		got, err := highestOf(func(numbers []int64) (int, error) {
			rounds++
			for i, n := range numbers {
				if n > want {
					return i, nil
				}
			}
			return len(numbers), nil
		})
		if err != nil || got != want {
			t.Errorf("%d, %v; want %d", got, err, want)
		}
		if want < 1<<16 && rounds > 6 {
			t.Errorf("%d took %d rounds of look-ups", want, rounds)
		}
	}
}
